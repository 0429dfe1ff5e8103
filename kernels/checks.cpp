// The checks of operations' arguments that all backends share.
#include <limits>

#include "kernels/operations.h"

namespace gsa::kernels {
namespace {

void require(bool condition, const std::string& what) {
  if (!condition) {
    throw std::invalid_argument(what);
  }
}

// float32 for everything but float64 tensors: the dtype of statistics, states and gradients.
DType accumulator(DType dtype) {
  return dtype == DType::float64 ? dtype : DType::float32;
}

void require_like(const ConstTensor& tensor, const ConstTensor& model, const char* what) {
  require_shape(tensor, model.shape(), what);
  require(
      tensor.dtype() == model.dtype(),
      std::string(what) + " must be " + name_of(model.dtype()) + ", is " + name_of(tensor.dtype()));
}

void require_dtype(const ConstTensor& tensor, DType dtype, const char* what) {
  require(tensor.dtype() == dtype,
          std::string(what) + " must be " + name_of(dtype) + ", is " + name_of(tensor.dtype()));
}

void require_present(const ConstTensor& tensor, int rank, const char* what) {
  require(bool(tensor) && tensor.rank() == rank,
          std::string(what) + " must be a tensor of rank " + std::to_string(rank));
}

void require_contiguous(const ConstTensor& tensor, const char* what) {
  require(tensor.is_contiguous(), std::string(what) + " must be contiguous");
}

void require_optional(const ConstTensor& tensor, DType dtype, const Shape& shape,
                      const char* what) {
  if (tensor) {
    require_shape(tensor, shape, what);
    require_dtype(tensor, dtype, what);
    require_contiguous(tensor, what);
  }
}

// Masters that are to be split or joined, and the two parts of such.
void require_whole(const ConstTensor& master) {
  require_present(master, 1, "master");
  require_dtype(master, DType::float32, "master");
  require_contiguous(master, "master");
}
void require_parts(const ConstTensor& weights, const ConstTensor& remainder, const Shape& shape) {
  require_shape(weights, shape, "weights");
  require_dtype(weights, DType::bfloat16, "weights");
  require_contiguous(weights, "weights");
  require_shape(remainder, shape, "remainder");
  require_dtype(remainder, DType::int16, "remainder");
  require_contiguous(remainder, "remainder");
}

void require_statistics(const ConstTensor& tensor, const ConstTensor& input, const char* what) {
  require_shape(tensor, {input.dim(0)}, what);
  require_dtype(tensor, accumulator(input.dtype()), what);
}

// What both norms' backward passes ask for.
template <typename NormBackward>
void check_norm_backward(const NormBackward& args) {
  const ConstTensor& input = args.input;
  require_present(input, 2, "input");
  require_like(args.grad_output, input, "grad_output");
  require_like(args.grad_input, input, "grad_input");
  if (args.output) {
    require_like(args.output, input, "output");
    require(args.output.data() != args.grad_input.data(),
            "a norm's output and its input's gradient need memory of their own");
  }
  require_statistics(args.inverse_rms, input, "inverse_rms");
  require_optional(args.weight, input.dtype(), {input.dim(1)}, "weight");
  require_optional(args.grad_weight, accumulator(input.dtype()), {input.dim(1)}, "grad_weight");
  require(bool(args.weight) == bool(args.grad_weight),
          "a norm's weight and its gradient go together");
}

}  // namespace

void EmbeddingForward::check() const {
  require_present(tokens, 1, "tokens");
  require_present(table, 2, "table");
  require_dtype(tokens, DType::int32, "tokens");
  require_shape(output, {tokens.dim(0), table.dim(1)}, "output");
  require_dtype(output, table.dtype(), "output");
}

void EmbeddingBackward::check() const {
  require_present(tokens, 1, "tokens");
  require_present(grad_table, 2, "grad_table");
  require_dtype(tokens, DType::int32, "tokens");
  require_shape(grad_output, {tokens.dim(0), grad_table.dim(1)}, "grad_output");
  require_dtype(grad_table, accumulator(grad_output.dtype()), "grad_table");
}

void RmsNormForward::check() const {
  require_present(input, 2, "input");
  require_like(output, input, "output");
  require_optional(weight, input.dtype(), {input.dim(1)}, "weight");
  require_statistics(inverse_rms, input, "inverse_rms");
}

void RmsNormBackward::check() const {
  check_norm_backward(*this);
  if (grad_residual) {
    require_like(grad_residual, input, "grad_residual");
  }
}

void SwishRmsNormForward::check() const {
  require_present(input, 2, "input");
  require_like(output, input, "output");
  require_optional(weight, input.dtype(), {input.dim(1)}, "weight");
  require_statistics(inverse_rms, input, "inverse_rms");
}

void SwishRmsNormBackward::check() const {
  check_norm_backward(*this);
}

void Matmul::check() const {
  require_present(a, 2, "a");
  require_present(b, 2, "b");
  require_present(c, 2, "c");
  const bool a_turned = transpose_a == Transpose::yes;
  const bool b_turned = transpose_b == Transpose::yes;
  require_shape(a, a_turned ? Shape{k(), m()} : Shape{m(), k()}, "a");
  require_shape(b, b_turned ? Shape{n(), k()} : Shape{k(), n()}, "b");
  require_dtype(b, a.dtype(), "b");
  require(c.dtype() == a.dtype() || c.dtype() == accumulator(a.dtype()),
          "c must be of the operands' dtype or float32");
  if (addend) {
    require_like(addend, c, "addend");
    require(addend.row_stride() == c.row_stride(), "the addend's rows must lie as those of c");
    require(accumulate == Accumulate::no, "an addend takes the place of what c holds");
  }
}

void SwishForward::check() const {
  require_present(input, 2, "input");
  require_like(output, input, "output");
}

void SwishBackward::check() const {
  require_present(input, 2, "input");
  require_like(grad_output, input, "grad_output");
  require_like(grad_input, input, "grad_input");
}

void LogGateForward::check() const {
  require_present(input, 2, "input");
  require_shape(log_alpha, input.shape(), "log_alpha");
  require_dtype(log_alpha, accumulator(input.dtype()), "log_alpha");
  require(normalizer > 0, "the gate's normalizer must be positive");
}

void LogGateBackward::check() const {
  require_present(input, 2, "input");
  require_shape(grad_log_alpha, input.shape(), "grad_log_alpha");
  require_dtype(grad_log_alpha, accumulator(input.dtype()), "grad_log_alpha");
  require_like(grad_input, input, "grad_input");
  require(normalizer > 0, "the gate's normalizer must be positive");
}

void SwigluForward::check() const {
  require_present(gate_up, 2, "gate_up");
  require(gate_up.dim(1) % 2 == 0, "gate_up must have an even number of columns");
  require_shape(output, {gate_up.dim(0), gate_up.dim(1) / 2}, "output");
  require_dtype(output, gate_up.dtype(), "output");
}

void SwigluBackward::check() const {
  require_present(gate_up, 2, "gate_up");
  require(gate_up.dim(1) % 2 == 0, "gate_up must have an even number of columns");
  require_shape(grad_output, {gate_up.dim(0), gate_up.dim(1) / 2}, "grad_output");
  require_dtype(grad_output, gate_up.dtype(), "grad_output");
  require_like(grad_gate_up, gate_up, "grad_gate_up");
  if (output) {
    require_like(output, grad_output, "output");
  }
}

void SwigluProductForward::check() const {
  require_present(input, 2, "input");
  require_present(weight, 2, "weight");
  require(weight.dim(0) % 2 == 0, "weight must have an even number of rows");
  require_shape(weight, {weight.dim(0), input.dim(1)}, "weight");
  require_dtype(weight, input.dtype(), "weight");
  require_shape(gate_up, {input.dim(0), weight.dim(0)}, "gate_up");
  require_dtype(gate_up, input.dtype(), "gate_up");
  if (output) {
    require_shape(output, {input.dim(0), weight.dim(0) / 2}, "output");
    require_dtype(output, input.dtype(), "output");
  }
}

void SwigluProductBackward::check() const {
  require_present(grad_product, 2, "grad_product");
  require_present(weight, 2, "weight");
  require_shape(weight, {grad_product.dim(1), weight.dim(1)}, "weight");
  require_dtype(weight, grad_product.dtype(), "weight");
  require_shape(gate_up, {grad_product.dim(0), 2 * weight.dim(1)}, "gate_up");
  require_dtype(gate_up, grad_product.dtype(), "gate_up");
  require_shape(output, {grad_product.dim(0), weight.dim(1)}, "output");
  require_dtype(output, grad_product.dtype(), "output");
  require_like(grad_gate_up, gate_up, "grad_gate_up");
}

void CrossEntropy::check() const {
  require_present(logits, 2, "logits");
  require_shape(labels, {logits.dim(0)}, "labels");
  require_dtype(labels, DType::int32, "labels");
  require_statistics(losses, logits, "losses");
}

void SumLosses::check() const {
  require_present(losses, 1, "losses");
  require_shape(labels, losses.shape(), "labels");
  require_dtype(labels, DType::int32, "labels");
  require_shape(totals, {2}, "totals");
  require_dtype(totals, DType::float64, "totals");
}

void Sum::check() const {
  require(count >= 1 && count <= max_inputs, "a sum is of 1 to 8 tensors");
  require_present(output, 1, "output");
  require_contiguous(output, "output");
  for (int i = 0; i < count; ++i) {
    const ConstTensor& input = inputs.at(static_cast<size_t>(i));
    require_like(input, output, "input");
    require_contiguous(input, "input");
  }
}

void SquaredNorm::check() const {
  require_present(input, 1, "input");
  require_contiguous(input, "input");
  require_shape(sum, {1}, "sum");
  require_dtype(sum, DType::float64, "sum");
}

void ClipScale::check() const {
  require_shape(squared_norm, {1}, "squared_norm");
  require_dtype(squared_norm, DType::float64, "squared_norm");
  require_shape(totals, {2}, "totals");
  require_dtype(totals, DType::float64, "totals");
  require_shape(norm, {1}, "norm");
  require_dtype(norm, DType::float64, "norm");
  require_shape(scale, {1}, "scale");
  require_dtype(scale, DType::float64, "scale");
  require(nominal_tokens > 0, "nominal_tokens must be positive");
}

void AdamW::check() const {
  require_present(gradient, 1, "gradient");
  if (remainder) {
    require(!master, "masters are by themselves or in two parts, not both");
    require_dtype(gradient, DType::float32, "gradient");
    require_parts(weights, remainder, gradient.shape());
  } else {
    require_like(master, gradient, "master");
  }
  require_like(first_moment, gradient, "first_moment");
  require_like(second_moment, gradient, "second_moment");
  if (weights && !remainder) {
    require_like(weights, master, "weights");
  }
  require_shape(scale, {1}, "scale");
  require_dtype(scale, DType::float64, "scale");
  require(step >= 1, "AdamW counts its steps from 1");
}

void SplitMaster::check() const {
  require_whole(master);
  require_parts(weights, remainder, master.shape());
}

void JoinMaster::check() const {
  require_whole(master);
  require_parts(weights, remainder, master.shape());
}

void Convert::check() const {
  require(input.count() == output.count(), "convert needs tensors of one size");
  require_contiguous(input, "input");
  require_contiguous(output, "output");
}

void Checksum::check() const {
  require(bool(input), "input must be a tensor");
  require_contiguous(input, "input");
  require_shape(sum, {2}, "sum");
  require_dtype(sum, DType::int32, "sum");
  require(reinterpret_cast<uintptr_t>(sum.data()) % sizeof(uint64_t) == 0,
          "sum must be aligned to 8 bytes");
}

void NormalFill::check() const {
  require_present(output, 1, "output");
  require_dtype(output, DType::float32, "output");
  require_contiguous(output, "output");
  require(output.count() <= std::numeric_limits<int32_t>::max(),
          "normal_fill takes fewer than 2^31 elements");
  require_present(doubtful, 1, "doubtful");
  require_dtype(doubtful, DType::int32, "doubtful");
  require(doubtful.count() >= 1, "doubtful must have room for its count");
}

int64_t Sequences::chunks() const {
  int64_t chunks = 0;
  for (size_t i = 0; i + 1 < host.size(); ++i) {
    chunks += (host[i + 1] - host[i] + gsa_chunk - 1) / gsa_chunk;
  }
  return chunks;
}

double GsaForward::flops() const {
  // Two passes, each a state update and a read-out of 2 * dim * M multiply-adds a token and head.
  const double tokens = double(q.dim(0)) * double(query_heads()) * double(slots());
  return 4.0 * tokens * double(key_dim() + value_dim());
}

void GsaForward::check_inputs() const {
  require_present(q, 3, "q");
  require_present(k, 3, "k");
  require_present(v, 3, "v");
  require(bool(log_alpha) != projected(),
          "GSA takes log_alpha (of activated q, k, v) or gate_logits (of projected ones), one of "
          "both");
  require_present(gate(), 3, projected() ? "gate_logits" : "log_alpha");
  require(!projected() || gate_normalizer > 0, "the gate's normalizer must be positive");
  const int64_t tokens = q.dim(0);
  require(heads() > 0 && query_heads() % heads() == 0,
          "the query heads must be a multiple of the key/value heads");
  require_shape(k, {tokens, heads(), key_dim()}, "k");
  require(q.dim(2) == key_dim(), "q and k must have the same head dimension");
  require_shape(v, {tokens, heads(), value_dim()}, "v");
  require_shape(gate(), {tokens, heads(), slots()}, projected() ? "gate_logits" : "log_alpha");
  require_dtype(k, q.dtype(), "k");
  require_dtype(v, q.dtype(), "v");
  const DType state = accumulator(q.dtype());
  if (projected()) {
    require_dtype(gate_logits, q.dtype(), "gate_logits");
  } else {
    require_dtype(log_alpha, state, "log_alpha");
  }
  require(!sequences.host.empty() && sequences.tokens() == tokens,
          "sequence_offsets must end at the number of tokens");
  require_shape(sequences.offsets, {sequences.count() + 1}, "sequence_offsets");
  const Shape key_state{sequences.count(), query_heads(), key_dim(), slots()};
  const Shape value_state{sequences.count(), query_heads(), slots(), value_dim()};
  require_optional(initial_key_state, state, key_state, "initial_key_state");
  require_optional(initial_value_state, state, value_state, "initial_value_state");
}

void GsaForward::check() const {
  check_inputs();
  require_shape(output, {q.dim(0), query_heads(), value_dim()}, "output");
  require_dtype(output, q.dtype(), "output");
  const DType state = accumulator(q.dtype());
  const Shape key_state{sequences.count(), query_heads(), key_dim(), slots()};
  const Shape value_state{sequences.count(), query_heads(), slots(), value_dim()};
  require_optional(final_key_state, state, key_state, "final_key_state");
  require_optional(final_value_state, state, value_state, "final_value_state");
}

double GsaBackward::flops() const {
  return 2.5 * forward.flops();
}

void GsaBackward::check() const {
  forward.check_inputs();
  require_shape(grad_output, {forward.q.dim(0), forward.query_heads(), forward.value_dim()},
                "grad_output");
  require_dtype(grad_output, forward.q.dtype(), "grad_output");
  require_like(grad_q, forward.q, "grad_q");
  require_like(grad_k, forward.k, "grad_k");
  require_like(grad_v, forward.v, "grad_v");
  const bool projected = forward.projected();
  require(bool(projected ? grad_gate_logits : grad_log_alpha) &&
              !(projected ? grad_log_alpha : grad_gate_logits),
          projected ? "of gate_logits the gradient is grad_gate_logits, not grad_log_alpha"
                    : "of log_alpha the gradient is grad_log_alpha, not grad_gate_logits");
  if (projected) {
    require_like(grad_gate_logits, forward.gate_logits, "grad_gate_logits");
  } else {
    require_like(grad_log_alpha, forward.log_alpha, "grad_log_alpha");
  }
  const DType state = accumulator(forward.q.dtype());
  const Shape key_state{forward.sequences.count(), forward.query_heads(), forward.key_dim(),
                        forward.slots()};
  const Shape value_state{forward.sequences.count(), forward.query_heads(), forward.slots(),
                          forward.value_dim()};
  require_optional(grad_final_key_state, state, key_state, "grad_final_key_state");
  require_optional(grad_final_value_state, state, value_state, "grad_final_value_state");
  require_optional(grad_initial_key_state, state, key_state, "grad_initial_key_state");
  require_optional(grad_initial_value_state, state, value_state, "grad_initial_value_state");
}

void DecodeLinear::check() const {
  require_present(input, 2, "input");
  require_present(weight, 2, "weight");
  require_dtype(weight, input.dtype(), "weight");
  require_contiguous(weight, "weight");
  require(weight.dim(1) == input.dim(1), "weight must have as many columns as the input");
  require_optional(norm_weight, input.dtype(), {input.dim(1)}, "norm_weight");
  const bool gated = activation == DecodeActivation::swiglu;
  require(!gated || weight.dim(0) % 2 == 0, "weight must have an even number of rows for swiglu");
  require(!gated || !residual, "swiglu takes no residual");
  require_shape(output, {input.dim(0), gated ? weight.dim(0) / 2 : weight.dim(0)}, "output");
  require(output.dtype() == input.dtype() || output.dtype() == accumulator(input.dtype()),
          "output must be of the input's dtype or float32");
  if (residual) {
    require_like(residual, output, "residual");
    require_dtype(residual, input.dtype(), "residual");
  }
}

void GsaDecode::check() const {
  require_present(projected, 2, "projected");
  require_present(key_state, 4, "key_state");
  require_present(value_state, 4, "value_state");
  require(heads > 0 && query_heads % heads == 0,
          "the query heads must be a multiple of the key/value heads");
  const int64_t sequences = projected.dim(0);
  const DType state = accumulator(projected.dtype());
  require_optional(key_state, state, {sequences, query_heads, key_dim(), slots()}, "key_state");
  require_optional(value_state, state, {sequences, query_heads, slots(), value_dim()},
                   "value_state");
  require_shape(projected,
                {sequences, query_heads * key_dim() + heads * (key_dim() + value_dim() + slots())},
                "projected");
  require_shape(output, {sequences, query_heads * value_dim()}, "output");
  require_dtype(output, projected.dtype(), "output");
  require(gate_normalizer > 0, "the gate's normalizer must be positive");
  if (kept) {
    require_present(kept.rows, 4, "kept.rows");
    require_optional(
        kept.rows, projected.dtype(),
        KeptTokens::shape(sequences, heads, kept.period(), key_dim(), value_dim(), slots()),
        "kept.rows");
    require(kept.period() > 1, "there must be a token to keep");
    require_present(kept.step, 1, "kept.step");
    require_optional(kept.step, DType::int32, {1}, "kept.step");
    require(kept.offset >= 0, "kept.offset must be 0 or more");
  }
}

namespace {

int64_t sequences_of(const DecodeLinear& linear) {
  return linear.input.dim(0);
}
int64_t sequences_of(const GsaDecode& gsa) {
  return gsa.projected.dim(0);
}

}  // namespace

double DecodeStep::flops() const {
  double sum = 0;
  for (const auto& operation : operations) {
    sum += std::visit([](const auto& args) { return args.flops(); }, operation);
  }
  return sum;
}

void DecodeStep::check() const {
  int64_t sequences = -1;
  for (const auto& operation : operations) {
    std::visit(
        [&](const auto& args) {
          args.check();
          require(sequences < 0 || sequences == sequences_of(args),
                  "the operations of a step must be of the same sequences");
          sequences = sequences_of(args);
        },
        operation);
  }
}

void CountStep::check() const {
  require_present(step, 1, "step");
  require_optional(step, DType::int32, {1}, "step");
}

void SamplingOptions::check() const {
  require(temperature >= 0, "the temperature must be 0 or more");
  require(top_k >= 0, "top-k must be 0 (all tokens) or more");
  require(top_p > 0 && top_p <= 1, "top-p must be above 0 and at most 1");
}

void SampleTokens::check() const {
  options.check();
  require_present(logits, 2, "logits");
  require_dtype(logits, DType::float32, "logits");
  require(logits.dim(1) > 0, "there must be tokens to choose from");
  require_shape(positions, {logits.dim(0)}, "positions");
  require_dtype(positions, DType::int32, "positions");
  require_shape(tokens, {logits.dim(0)}, "tokens");
  require_dtype(tokens, DType::int32, "tokens");
  if (history) {
    require_present(history, 2, "history");
    require(history.dim(0) > 0, "a history must have room for a draw");
    require_optional(history, DType::int32, {history.dim(0), logits.dim(0)}, "history");
  }
}

}  // namespace gsa::kernels
