// Documents packed into one batch, each with a state of its own (data.reset_state_at_documents),
// against the same documents one at a time: logits, loss and the gradient of every parameter
// through the whole model, on the CPU and on a GPU in float32 and bfloat16.
#include <gtest/gtest.h>

#include "kernels/cross_entropy.h"
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

// Relative norms. Products of other shapes may add in another order: rounding alone, in float32 of
// what is asked of the op (1e-5 and 1e-4), in bfloat16 a few roundings of 2^-9 along the way.
constexpr Precision precisions[] = {
    {"CpuDouble", Device::cpu, DType::float64, 1e-12, 1e-12},
    {"CpuFloat", Device::cpu, DType::float32, 1e-5, 1e-4},
    {"CudaFloat", Device::cuda, DType::float32, 1e-5, 1e-4},
    {"CudaBf16", Device::cuda, DType::bfloat16, 2e-2, 2e-2},
};

// Shorter than a sub-chunk, a chunk less, more and exactly, several chunks; none begins where the
// packed batch would cut a chunk.
constexpr int32_t lengths[] = {1, 3, 64, 65, 130, 17, 63, 1, 192};

// One document, or several packed: tokens, labels and where each document begins.
struct Documents {
  std::vector<int32_t> tokens;
  std::vector<int32_t> labels;
  std::vector<int32_t> offsets = {0};

  void append(const Documents& other) {
    tokens.insert(tokens.end(), other.tokens.begin(), other.tokens.end());
    labels.insert(labels.end(), other.labels.begin(), other.labels.end());
    offsets.push_back(static_cast<int32_t>(tokens.size()));
  }
  double counted() const {
    double count = 0;
    for (const int32_t label : labels) {
      count += label != kernels::ignored_label ? 1 : 0;
    }
    return count;
  }
};

std::vector<Documents> random_documents(int32_t vocabulary) {
  Random random(11);
  std::vector<Documents> documents;
  for (const int32_t length : lengths) {
    Documents document;
    for (int32_t i = 0; i < length; ++i) {
      document.tokens.push_back(random.integer(vocabulary));
      document.labels.push_back(i % 9 == 4 ? kernels::ignored_label : random.integer(vocabulary));
    }
    document.offsets.push_back(length);
    documents.push_back(std::move(document));
  }
  return documents;
}

ModelConfig model_config() {
  ModelConfig config = small_model();
  config.vocabulary = 64;
  config.hidden = 128;
  config.slots = 32;
  config.intermediate = 128;
  return config;
}

// What a batch gives, with gradients of the sum of losses.
struct Results {
  std::vector<double> logits;
  double loss = 0;
  std::map<std::string, std::vector<double>> gradients;
};

Results run(ModelCase& model, const Documents& documents) {
  model.set_batch(documents.tokens, documents.labels, documents.offsets);
  Results results;
  results.logits = model.logits();
  model.zero_gradients();
  results.loss = model.loss_and_gradients() * documents.counted();
  for (const std::string& name : model.names()) {
    results.gradients[name] = model.gradient(name);
    for (double& value : results.gradients[name]) {
      value *= documents.counted();
    }
  }
  return results;
}

void add(Results& sum, const Results& more) {
  sum.logits.insert(sum.logits.end(), more.logits.begin(), more.logits.end());
  sum.loss += more.loss;
  for (const auto& [name, gradient] : more.gradients) {
    std::vector<double>& total = sum.gradients[name];
    total.resize(gradient.size());
    for (size_t i = 0; i < gradient.size(); ++i) {
      total[i] += gradient[i];
    }
  }
}

class DocumentReset : public testing::TestWithParam<Precision> {
 protected:
  void SetUp() override {
    if (GetParam().device == Device::cuda && cuda_device_count() == 0) {
      GTEST_SKIP() << "no GPU";
    }
    model_ = std::make_unique<ModelCase>(model_config(), GetParam().device, GetParam().dtype);
    model_->randomize(12);
    // Activations of about 1, so that nothing saturates.
    constexpr double scale = 0.3;
    for (const std::string& name : model_->names()) {
      std::vector<double> values = model_->weight(name);
      for (double& value : values) {
        value *= scale;
      }
      model_->set_weight(name, values);
    }
    documents_ = random_documents(static_cast<int32_t>(model_config().vocabulary));
    for (const Documents& document : documents_) {
      packed_.append(document);
    }
  }

  std::unique_ptr<ModelCase> model_;
  std::vector<Documents> documents_;
  Documents packed_;
};

TEST_P(DocumentReset, PackedDocumentsEqualDocumentsApart) {
  Results apart;
  for (const Documents& document : documents_) {
    add(apart, run(*model_, document));
  }
  const Results together = run(*model_, packed_);
  EXPECT_LT(relative_error(together.logits, apart.logits), GetParam().forward_tolerance);
  EXPECT_NEAR(together.loss / apart.loss, 1.0, GetParam().forward_tolerance);
  for (const auto& [name, gradient] : apart.gradients) {
    EXPECT_LT(relative_error(together.gradients.at(name), gradient), GetParam().backward_tolerance)
        << name;
  }
}

TEST_P(DocumentReset, WithoutItTheStateRunsOn) {
  // So that the test above would notice a state carried over.
  const Results reset = run(*model_, packed_);
  packed_.offsets = {0, packed_.offsets.back()};
  const Results carried = run(*model_, packed_);
  constexpr double clearly = 5;
  EXPECT_GT(relative_error(carried.logits, reset.logits), clearly * GetParam().forward_tolerance);
}

INSTANTIATE_TEST_SUITE_P(Precisions, DocumentReset, testing::ValuesIn(precisions),
                         [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace gsa::test
