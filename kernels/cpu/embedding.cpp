#include <cstring>

#include "kernels/backends.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/typed.h"

namespace gsa::kernels::cpu {
namespace {

// Throws std::out_of_range unless every token has a row in a table of `vocabulary` rows.
void require_tokens(const ConstTensor& tokens, int64_t vocabulary) {
  const int32_t* ids = tokens.as<int32_t>();
  for (int64_t n = 0; n < tokens.dim(0); ++n) {
    if (ids[n] < 0 || ids[n] >= vocabulary) {
      throw std::out_of_range("token id " + std::to_string(ids[n]) + " at position " +
                              std::to_string(n) + " is outside the vocabulary of " +
                              std::to_string(vocabulary) +
                              ": was the data made with another tokenizer?");
    }
  }
}

}  // namespace

void embedding_forward(Stream& /*stream*/, const EmbeddingForward& args) {
  require_tokens(args.tokens, args.table.dim(0));
  const int32_t* ids = args.tokens.as<int32_t>();
  const int64_t element = int64_t(size_of(args.table.dtype()));
  const int64_t columns = args.table.dim(1);
  const auto* table = static_cast<const std::byte*>(args.table.data());
  auto* output = static_cast<std::byte*>(args.output.data());
  const int64_t table_stride = args.table.row_stride() * element;
  const int64_t output_stride = args.output.row_stride() * element;
  parallel_for(args.tokens.dim(0), columns, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      std::memcpy(output + n * output_stride, table + ids[n] * table_stride,
                  static_cast<size_t>(columns * element));
    }
  });
}

// Each thread owns a range of columns and walks over all tokens, so that every element of the table
// receives its sum in the order of n.
void embedding_backward(Stream& /*stream*/, const EmbeddingBackward& args,
                        std::byte* /*workspace*/) {
  require_tokens(args.tokens, args.grad_table.dim(0));
  with_real_type(args.grad_output.dtype(), "embedding_backward", [&](auto type) {
    using T = decltype(type);
    const int32_t* ids = args.tokens.as<int32_t>();
    const auto grad = rows_of<T>(args.grad_output);
    const auto table = rows_of<T>(args.grad_table);
    const int64_t tokens = args.tokens.dim(0);
    parallel_for(args.grad_table.dim(1), tokens, [&](int64_t begin, int64_t end) {
      for (int64_t n = 0; n < tokens; ++n) {
        const T* from = grad[n];
        T* to = table[ids[n]];
#pragma omp simd
        for (int64_t d = begin; d < end; ++d) {
          to[d] += from[d];
        }
      }
    });
  });
}

size_t embedding_backward_workspace(const EmbeddingBackward& /*args*/) {
  return 0;
}

}  // namespace gsa::kernels::cpu
