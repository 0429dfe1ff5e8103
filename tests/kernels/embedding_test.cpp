#include "kernels/embedding.h"

#include <gtest/gtest.h>

#include "tests/support/numeric.h"
#include "tests/support/scratch.h"

namespace gsa::kernels {
namespace {

using test::HostTensor;
using test::relative_error;

constexpr int64_t count = 301;
constexpr int32_t vocabulary = 17;  // far below the count: rows repeat
constexpr int64_t width = 67;
constexpr int64_t padding = 4;

HostTensor some_tokens(test::Random& random) {
  HostTensor tokens(DType::int32, {count});
  for (int64_t n = 0; n < count; ++n) {
    tokens.set(n, random.integer(vocabulary - 1));  // the last row is never seen
  }
  tokens.set(5, 0);
  return tokens;
}

class CpuEmbedding : public testing::TestWithParam<DType> {
 protected:
  test::Random random_{21};
  test::TestStream stream_;
  HostTensor tokens_ = some_tokens(random_);
};

INSTANTIATE_TEST_SUITE_P(Dtypes, CpuEmbedding, testing::Values(DType::float32, DType::float64),
                         [](const auto& suite) { return name_of(suite.param); });

TEST_P(CpuEmbedding, ForwardTakesRowsOfTheTable) {
  const auto table = HostTensor::random(GetParam(), {vocabulary, width}, random_, -1, 1, padding);
  const HostTensor output(GetParam(), {count, width}, 2 * padding);
  embedding_forward(stream_, {.tokens = tokens_, .table = table, .output = output});
  for (int64_t n = 0; n < count; ++n) {
    const auto row = static_cast<int64_t>(tokens_.get(n));
    for (int64_t d = 0; d < width; ++d) {
      ASSERT_EQ(output.get(n * width + d), table.get(row * width + d));
    }
  }
  EXPECT_TRUE(output.gaps_are_untouched());
}

TEST_P(CpuEmbedding, BackwardAddsTheGradientsOfARow) {
  const auto grad = HostTensor::random(GetParam(), {count, width}, random_, -1, 1, padding);
  const auto grad_table = HostTensor::random(GetParam(), {vocabulary, width}, random_);
  std::vector<double> expected = grad_table.values();
  for (int64_t n = 0; n < count; ++n) {
    const auto row = static_cast<int64_t>(tokens_.get(n));
    for (int64_t d = 0; d < width; ++d) {
      expected[row * width + d] += grad.get(n * width + d);
    }
  }
  const double unseen = grad_table.get((vocabulary - 1) * width);
  embedding_backward(stream_, {.tokens = tokens_, .grad_output = grad, .grad_table = grad_table});
  EXPECT_LT(relative_error(grad_table.values(), expected),
            GetParam() == DType::float64 ? test::double_tolerance : test::float_tolerance);
  EXPECT_EQ(grad_table.get((vocabulary - 1) * width), unseen);
}

TEST_P(CpuEmbedding, BackwardHasTheSameBitsForAnyNumberOfThreads) {
  const auto grad = HostTensor::random(GetParam(), {count, width}, random_);
  std::vector<uint64_t> first;
  for (const int threads : {1, 2, 3, 7}) {
    const test::ThreadCount thread_count(threads);
    const HostTensor grad_table(GetParam(), {vocabulary, width},
                                std::vector<double>(vocabulary * width));
    embedding_backward(stream_, {.tokens = tokens_, .grad_output = grad, .grad_table = grad_table});
    if (first.empty()) {
      first = grad_table.bits();
    }
    EXPECT_EQ(grad_table.bits(), first) << threads << " threads";
  }
}

TEST(CpuEmbeddingErrors, TokensOutsideTheVocabularyAreNamed) {
  test::TestStream stream;
  const HostTensor table(DType::float32, {4, 2});
  const HostTensor output(DType::float32, {3, 2}, {1, 2, 3, 4, 5, 6});
  const HostTensor negative(DType::int32, {3}, {0, -1, 3});
  try {
    const HostTensor tokens(DType::int32, {3}, {0, 3, 4});
    embedding_forward(stream, {.tokens = tokens, .table = table, .output = output});
    FAIL() << "token 4 of 4 was accepted";
  } catch (const std::out_of_range& error) {
    EXPECT_STREQ(error.what(),
                 "token id 4 at position 2 is outside the vocabulary of 4: was the data made with "
                 "another tokenizer?");
  }
  EXPECT_EQ(output.values(), (std::vector<double>{1, 2, 3, 4, 5, 6}));  // nothing was written
  EXPECT_THROW(
      embedding_backward(stream, {.tokens = negative, .grad_output = output, .grad_table = table}),
      std::out_of_range);
}

TEST(CpuEmbeddingErrors, ShapesAndDtypesAreChecked) {
  test::TestStream stream;
  const HostTensor tokens(DType::int32, {3}, {0, 1, 2});
  const HostTensor table(DType::float32, {4, 2});
  const HostTensor narrow(DType::float32, {3, 1});
  const HostTensor wide(DType::float64, {3, 2});
  EXPECT_THROW(embedding_forward(stream, {.tokens = tokens, .table = table, .output = narrow}),
               std::invalid_argument);
  EXPECT_THROW(embedding_forward(stream, {.tokens = tokens, .table = table, .output = wide}),
               std::invalid_argument);
  EXPECT_THROW(embedding_forward(stream, {.tokens = narrow, .table = table, .output = wide}),
               std::invalid_argument);
  EXPECT_THROW(
      embedding_backward(stream, {.tokens = tokens, .grad_output = wide, .grad_table = table}),
      std::invalid_argument);
}

}  // namespace
}  // namespace gsa::kernels
