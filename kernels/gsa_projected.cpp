#include "kernels/gsa_projected.h"

namespace gsa::kernels {
namespace {

constexpr size_t alignment = 256;

// Hands out contiguous tensors one after the other; over null it only counts.
class Workspace {
 public:
  Workspace(std::byte* start, Device device) : start_(start), device_(device) {}

  Tensor take(DType dtype, const Shape& shape) {
    std::byte* at = start_ == nullptr ? nullptr : start_ + bytes_;
    const size_t size = static_cast<size_t>(shape.count()) * size_of(dtype);
    bytes_ += (size + alignment - 1) / alignment * alignment;
    return {at, dtype, device_, shape};
  }
  Tensor take_like(const ConstTensor& tensor) { return take(tensor.dtype(), tensor.shape()); }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* start_;
  Device device_;
  size_t bytes_ = 0;
};

DType gate_dtype(const GsaForward& args) {
  return args.q.dtype() == DType::float64 ? DType::float64 : DType::float32;
}

// The activated inputs of a projected call.
struct Activated {
  Activated(Workspace& memory, const GsaForward& args)
      : q(memory.take_like(args.q)),
        k(memory.take_like(args.k)),
        v(memory.take_like(args.v)),
        log_alpha(memory.take(gate_dtype(args), args.gate_logits.shape())) {}

  Tensor q;
  Tensor k;
  Tensor v;
  Tensor log_alpha;
};

// [N, heads, dim] as the activations take it.
template <typename AnyTensor>
AnyTensor matrix(const AnyTensor& tensor) {
  return tensor.reshape({tensor.dim(0), tensor.shape().row_count()});
}

// Fills `to` and returns the call on it.
GsaForward activate(Stream& stream, const GsaForward& args, const Activated& to,
                    const GsaActivations& activations) {
  activations.swish(stream, {.input = matrix(args.q), .output = matrix(to.q)});
  activations.swish(stream, {.input = matrix(args.k), .output = matrix(to.k)});
  activations.swish(stream, {.input = matrix(args.v), .output = matrix(to.v)});
  activations.gate(stream, {.input = matrix(args.gate_logits),
                            .normalizer = args.gate_normalizer,
                            .log_alpha = matrix(to.log_alpha)});
  GsaForward activated = args;
  activated.q = to.q;
  activated.k = to.k;
  activated.v = to.v;
  activated.log_alpha = to.log_alpha;
  activated.gate_logits = {};
  return activated;
}

}  // namespace

size_t projected_workspace(const GsaForward& args) {
  Workspace memory(nullptr, args.q.device());
  if (args.projected()) {
    const Activated activated(memory, args);
  }
  return memory.bytes();
}

size_t projected_workspace(const GsaBackward& args) {
  const GsaForward& forward = args.forward;
  Workspace memory(nullptr, forward.q.device());
  if (forward.projected()) {
    const Activated activated(memory, forward);
    memory.take(gate_dtype(forward), forward.gate_logits.shape());
  }
  return memory.bytes();
}

void run_projected(Stream& stream, const GsaForward& args, std::byte* workspace,
                   const GsaActivations& activations,
                   void (*run)(Stream&, const GsaForward&, std::byte*)) {
  Workspace memory(workspace, args.q.device());
  const Activated activated(memory, args);
  run(stream, activate(stream, args, activated, activations), workspace + memory.bytes());
}

void run_projected(Stream& stream, const GsaBackward& args, std::byte* workspace,
                   const GsaActivations& activations,
                   void (*run)(Stream&, const GsaBackward&, std::byte*)) {
  const GsaForward& forward = args.forward;
  Workspace memory(workspace, forward.q.device());
  const Activated activated(memory, forward);
  GsaBackward op = args;
  op.forward = activate(stream, forward, activated, activations);
  op.grad_log_alpha = memory.take(gate_dtype(forward), forward.gate_logits.shape());
  op.grad_gate_logits = {};
  run(stream, op, workspace + memory.bytes());

  const auto through_swish = [&](const ConstTensor& input, const Tensor& gradient) {
    activations.swish_gradient(
        stream,
        {.input = matrix(input), .grad_output = matrix(gradient), .grad_input = matrix(gradient)});
  };
  through_swish(forward.q, args.grad_q);
  through_swish(forward.k, args.grad_k);
  through_swish(forward.v, args.grad_v);
  activations.gate_gradient(stream, {.input = matrix(forward.gate_logits),
                                     .grad_log_alpha = matrix(op.grad_log_alpha),
                                     .normalizer = forward.gate_normalizer,
                                     .grad_input = matrix(args.grad_gate_logits)});
}

}  // namespace gsa::kernels
