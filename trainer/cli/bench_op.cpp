// gsa bench op: the GSA op alone.
#include <cmath>

#include "kernels/activation.h"
#include "kernels/gsa.h"
#include "trainer/cli/bench.h"
#include "trainer/model/engine.h"

namespace gsa {
namespace {

BenchOpOptions with_defaults(BenchOpOptions options, Device device) {
  const bool gpu = device == Device::cuda;
  const auto fill = [](int64_t& value, int64_t standard) { value = value == 0 ? standard : value; };
  fill(options.batch, gpu ? 8 : 2);
  fill(options.length, gpu ? 2048 : 512);
  fill(options.kv_heads, options.heads);
  fill(options.head_dim, gpu ? 512 : 64);
  fill(options.slots, gpu ? 64 : 32);
  return options;
}

// The op's tensors, with gates as a fresh model has them.
class OpInputs {
 public:
  OpInputs(const BenchOpOptions& o, Session& session, Stream& stream)
      : sequences_(o.batch, o.length), offsets_(session.device, 4 * size_t(o.batch + 1)) {
    const int64_t n = o.batch * o.length;
    const DType dtype = session.dtype;
    const Tensor offsets = offsets_.tensor(DType::int32, {o.batch + 1});
    const kernels::Sequences host = sequences_.view(Device::cpu);
    copy(stream, host.offsets, offsets);
    const auto make = [&](Shape shape, DType type) {
      memory_.emplace_back(session.device, size_t(shape.count()) * size_of(type));
      const Tensor tensor = memory_.back().tensor(type, shape);
      fill_normal(stream, tensor, 1.0 / std::sqrt(double(o.head_dim)), memory_.size());
      return tensor;
    };
    backward.forward = {.q = make({n, o.heads, o.head_dim}, dtype),
                        .k = make({n, o.kv_heads, o.head_dim}, dtype),
                        .v = make({n, o.kv_heads, o.head_dim}, dtype),
                        .sequences = {.host = host.host, .offsets = offsets},
                        .output = make({n, o.heads, o.head_dim}, dtype)};
    kernels::GsaForward& forward = backward.forward;
    const Shape gate_shape{n, o.kv_heads, o.slots};
    if (o.projected) {
      forward.gate_logits = make(gate_shape, dtype);
      backward.grad_gate_logits = make(gate_shape, dtype);
    } else {
      const Tensor gates = make({n, o.kv_heads * o.slots}, DType::float32);
      const Tensor log_alpha = make({n, o.kv_heads * o.slots}, DType::float32);
      kernels::log_gate_forward(stream, {.input = gates, .log_alpha = log_alpha});
      forward.log_alpha = log_alpha.reshape(gate_shape);
      backward.grad_log_alpha = make(gate_shape, DType::float32);
    }
    const auto saved = static_cast<int64_t>(kernels::gsa_chunked_saved_bytes(forward));
    if (saved > 0) {
      memory_.emplace_back(session.device, static_cast<size_t>(saved));
      forward.saved = memory_.back().tensor(DType::byte, {saved});
    }
    backward.grad_output = make({n, o.heads, o.head_dim}, dtype);
    backward.grad_q = make({n, o.heads, o.head_dim}, dtype);
    backward.grad_k = make({n, o.kv_heads, o.head_dim}, dtype);
    backward.grad_v = make({n, o.kv_heads, o.head_dim}, dtype);
  }

  kernels::GsaBackward backward;

 private:
  HostSequences sequences_;
  Buffer offsets_;
  std::vector<Buffer> memory_;
};

// Bytes that must move: each input read once, each output written once.
double forward_bytes(const kernels::GsaForward& f) {
  return double(f.q.bytes() + f.k.bytes() + f.v.bytes() + f.gate().bytes() + f.output.bytes());
}

double backward_bytes(const kernels::GsaBackward& b) {
  return forward_bytes(b.forward) + double(b.grad_q.bytes() + b.grad_k.bytes() + b.grad_v.bytes() +
                                           b.grad_log_alpha.bytes() + b.grad_gate_logits.bytes());
}

}  // namespace

BenchResult bench_op(const BenchOpOptions& given, Session& session) {
  const BenchOpOptions options = with_defaults(given, session.device);
  Stream stream(session.device);
  Tape planning = Tape::planning(session.device);
  BenchResult result;
  describe_machine(session, result);
  OpInputs inputs(options, session, stream);
  {
    Stream plan = Stream::planning(session.device);
    plan.set_scratch(&planning);
    kernels::gsa_chunked_forward(plan, inputs.backward.forward);
    kernels::gsa_chunked_backward(plan, inputs.backward);
  }
  Tape tape(session.device, planning.peak().bytes());
  stream.set_scratch(&tape);
  const double forward =
      median_ms(stream, [&] { kernels::gsa_chunked_forward(stream, inputs.backward.forward); });
  const double backward =
      median_ms(stream, [&] { kernels::gsa_chunked_backward(stream, inputs.backward); });
  const double copy = copy_tb_s(stream);
  for (const auto& [name, value] : {std::pair<const char*, int64_t>{"batch", options.batch},
                                    {"length", options.length},
                                    {"heads", options.heads},
                                    {"kv_heads", options.kv_heads},
                                    {"head_dim", options.head_dim},
                                    {"slots", options.slots},
                                    {"projected", options.projected ? 1 : 0}}) {
    result.add(name, double(value));
  }
  result.add("forward_ms", forward);
  result.add("backward_ms", backward);
  result.add("forward_backward_ms", forward + backward);
  result.add("forward_floor_ms", forward_bytes(inputs.backward.forward) / copy / 1e9);
  result.add("backward_floor_ms", backward_bytes(inputs.backward) / copy / 1e9);
  result.add("workspace_mib", double(planning.peak().bytes()) / (1024.0 * 1024.0));
  result.add("saved_mib", double(inputs.backward.forward.saved.bytes()) / (1024.0 * 1024.0));
  result.add("copy_tb_s", copy);
  return result;
}

}  // namespace gsa
