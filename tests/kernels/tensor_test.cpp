#include "kernels/tensor.h"

#include <gtest/gtest.h>

#include <array>
#include <string>

namespace gsa {
namespace {

// The message of the exception that `run` throws.
template <typename Run>
std::string message_of(const Run& run) {
  try {
    run();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing was thrown";
}

class TensorViews : public testing::Test {
 protected:
  TensorViews() {
    for (size_t i = 0; i < memory_.size(); ++i) {
      memory_[i] = float(i);
    }
  }
  std::array<float, 24> memory_{};
  Tensor matrix_{memory_.data(), DType::float32, Device::cpu, {4, 6}};
};

TEST(TensorShape, CountsItsElements) {
  EXPECT_EQ(Shape({2, 3, 4}).count(), 24);
  EXPECT_EQ(Shape({2, 3, 4}).row_count(), 12);
  EXPECT_EQ(Shape({7}).row_count(), 1);
  EXPECT_EQ(Shape({5, 0}).count(), 0);
  EXPECT_EQ(Shape().count(), 0);
  EXPECT_EQ(Shape().row_count(), 0);
  EXPECT_EQ(Shape({2, 48, 4, 32}).text(), "[2, 48, 4, 32]");
  EXPECT_EQ(Shape().text(), "[]");
}

TEST(TensorShape, HasAtMostFourDimensions) {
  EXPECT_THROW(Shape({1, 2, 3, 4, 5}), std::invalid_argument);
}

TEST(TensorShape, DiffersByRankToo) {
  EXPECT_EQ(Shape({2, 3}), Shape({2, 3}));
  EXPECT_NE(Shape({2, 3}), Shape({3, 2}));
  EXPECT_NE(Shape({2}), Shape({2, 1}));
}

TEST_F(TensorViews, DefaultIsAbsent) {
  EXPECT_FALSE(bool(Tensor()));
  EXPECT_FALSE(bool(ConstTensor()));
  EXPECT_TRUE(bool(matrix_));
  EXPECT_EQ(Tensor().count(), 0);
}

TEST_F(TensorViews, KnowItsSizes) {
  EXPECT_EQ(matrix_.rank(), 2);
  EXPECT_EQ(matrix_.dim(1), 6);
  EXPECT_EQ(matrix_.row_stride(), 6);
  EXPECT_EQ(matrix_.bytes(), sizeof(memory_));
  EXPECT_TRUE(matrix_.is_contiguous());
}

TEST_F(TensorViews, RowsAndColumnsLookAtTheSameMemory) {
  const Tensor rows = matrix_.rows(1, 3);
  EXPECT_EQ(rows.shape(), Shape({2, 6}));
  EXPECT_EQ(rows.as<float>()[0], 6);
  EXPECT_TRUE(rows.is_contiguous());

  const Tensor columns = matrix_.columns(2, 5);
  EXPECT_EQ(columns.shape(), Shape({4, 3}));
  EXPECT_EQ(columns.row_stride(), 6);
  EXPECT_FALSE(columns.is_contiguous());
  EXPECT_EQ(columns.as<float>()[columns.row_stride()], 8);

  const Tensor both = columns.rows(2, 3);
  EXPECT_EQ(both.as<float>()[0], 14);
  EXPECT_TRUE(both.is_contiguous());  // a single row

  both.as<float>()[0] = -1;
  EXPECT_EQ(memory_[14], -1);
}

TEST_F(TensorViews, RowsWorkAtEveryRank) {
  EXPECT_EQ(matrix_.reshape({24}).rows(3, 5).shape(), Shape({2}));
  EXPECT_EQ(matrix_.reshape({4, 2, 3}).rows(3, 4).shape(), Shape({1, 2, 3}));
  EXPECT_EQ(matrix_.reshape({2, 2, 2, 3}).rows(1, 2).as<float>()[0], 12);
  EXPECT_EQ(matrix_.rows(4, 4).count(), 0);
}

TEST_F(TensorViews, ReshapeKeepsTheFirstDimensionOfStridedRows) {
  const Tensor columns = matrix_.columns(0, 4);
  const Tensor heads = columns.reshape({4, 2, 2});
  EXPECT_EQ(heads.row_stride(), 6);
  EXPECT_EQ(heads.as<float>()[heads.row_stride()], 6);
  EXPECT_EQ(heads.reshape({4, 4}).row_stride(), 6);
  EXPECT_THROW(columns.reshape({2, 8}), std::invalid_argument);
  EXPECT_THROW(columns.reshape({4, 3}), std::invalid_argument);
  EXPECT_EQ(matrix_.reshape({2, 12}).row_stride(), 12);
}

TEST_F(TensorViews, RangesOutsideAreRefused) {
  EXPECT_EQ(message_of([&] { matrix_.rows(3, 5); }), "rows 3 to 5 of a tensor [4, 6]");
  EXPECT_EQ(message_of([&] { matrix_.columns(-1, 2); }), "columns -1 to 2 of a tensor [4, 6]");
  EXPECT_THROW(matrix_.rows(2, 1), std::invalid_argument);
  EXPECT_THROW(matrix_.reshape({24}).columns(0, 1), std::invalid_argument);
  EXPECT_THROW(Tensor().rows(0, 0), std::invalid_argument);
}

TEST_F(TensorViews, AnotherDtypeIsRefused) {
  EXPECT_EQ(message_of([&] { matrix_.as<double>(); }), "tensor [4, 6] holds float32, not float64");
  EXPECT_THROW(ConstTensor(matrix_).as<int32_t>(), std::invalid_argument);
}

TEST_F(TensorViews, RequireShapeNamesBoth) {
  EXPECT_NO_THROW(require_shape(matrix_, {4, 6}, "matrix"));
  EXPECT_EQ(message_of([&] {
              require_shape(matrix_, {6, 4}, "matrix");
            }),
            "matrix must be [6, 4], is [4, 6]");
  EXPECT_EQ(message_of([&] { require_shape({}, {6}, "vector"); }), "vector must be [6], is []");
}

TEST(TensorDtypes, HaveSizesAndNames) {
  EXPECT_EQ(size_of(DType::float64), 8U);
  EXPECT_EQ(size_of(DType::float32), 4U);
  EXPECT_EQ(size_of(DType::bfloat16), 2U);
  EXPECT_EQ(size_of(DType::int32), 4U);
  EXPECT_EQ(size_of(DType::byte), 1U);
  EXPECT_STREQ(name_of(DType::bfloat16), "bfloat16");
  EXPECT_STREQ(name_of(Device::cuda), "cuda");
}

}  // namespace
}  // namespace gsa
