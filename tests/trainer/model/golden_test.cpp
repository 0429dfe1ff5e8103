// The whole model against golden values: logits, loss and the gradient of every parameter, for
// every gsa_model_*.h5, on the CPU in double and single precision and on a GPU in single precision.
#include <gtest/gtest.h>

#include "tests/golden/golden.h"
#include "tests/support/numeric.h"
#include "tests/trainer/model/model_case.h"

namespace gsa::test {
namespace {

struct Precision {
  const char* name;
  Device device;
  DType dtype;
  double forward_tolerance;
  double backward_tolerance;
};

// Relative norms. Double: rounding alone. Single: what is asked of the op (1e-5 and 1e-4).
constexpr Precision precisions[] = {
    {"CpuDouble", Device::cpu, DType::float64, 1e-9, 1e-9},
    {"CpuFloat", Device::cpu, DType::float32, 1e-5, 1e-4},
    {"CudaFloat", Device::cuda, DType::float32, 1e-5, 1e-4},
};

ModelConfig read_config(const GoldenFile& file) {
  const auto integer = [&](const char* name) { return static_cast<int64_t>(file.attribute(name)); };
  ModelConfig config;
  config.vocabulary = integer("vocab_size");
  config.hidden = integer("hidden_size");
  config.layers = integer("num_hidden_layers");
  config.heads = integer("num_heads");
  config.kv_heads = integer("num_kv_heads");
  config.slots = integer("num_slots");
  config.intermediate = integer("intermediate_size");
  config.gate_logit_normalizer = file.attribute("gate_logit_normalizer");
  config.norm_eps = file.attribute("norm_eps");
  config.g_norm_eps = file.attribute("g_norm_eps");
  config.elementwise_affine = file.attribute("elementwise_affine") != 0;
  return config;
}

std::vector<int32_t> integers(const GoldenArray& array) {
  return {array.values.begin(), array.values.end()};
}

class GsaModelGolden : public testing::TestWithParam<Precision> {};

TEST_P(GsaModelGolden, LogitsLossAndEveryGradientAgree) {
  const Precision& precision = GetParam();
  if (precision.device == Device::cuda && cuda_device_count() == 0) {
    GTEST_SKIP() << "no GPU";
  }
  for (const auto& path : golden_files("gsa_model_")) {
    SCOPED_TRACE(path.string());
    const GoldenFile file(path);
    ModelCase model(read_config(file), precision.device, precision.dtype);
    for (const std::string& name : model.names()) {
      model.set_weight(name, file.read("params/" + name).values);
    }
    ASSERT_EQ(model.names().size(), file.names("params").size());
    const GoldenArray tokens = file.read("inputs/tokens");
    std::vector<int32_t> offsets;
    for (int64_t i = 0; i <= tokens.shape[0]; ++i) {
      offsets.push_back(static_cast<int32_t>(i * tokens.shape[1]));
    }
    model.set_batch(integers(tokens), integers(file.read("inputs/labels")), offsets);

    EXPECT_LT(relative_error(model.logits(), file.read("outputs/logits").values),
              precision.forward_tolerance);
    model.zero_gradients();
    const double loss = model.loss_and_gradients();
    EXPECT_NEAR(loss / file.attribute("loss"), 1.0, precision.forward_tolerance);
    for (const std::string& name : model.names()) {
      EXPECT_LT(relative_error(model.gradient(name), file.read("grads/" + name).values),
                precision.backward_tolerance)
          << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, GsaModelGolden, testing::ValuesIn(precisions),
                         [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace gsa::test
