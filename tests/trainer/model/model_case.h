// A model on any device and in any precision, with weights, results and gradients as doubles.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tests/support/host_tensor.h"
#include "trainer/model/engine.h"

namespace gsa::test {

// A small model with every kind of parameter.
ModelConfig small_model();

class ModelCase {
 public:
  ModelCase(const ModelConfig& config, Device device, DType dtype, Keep keep = Keep::everything,
            ParameterStore::Gradients gradients = ParameterStore::Gradients::own);

  // Weights drawn from normal(0, 0.3) (norms: around 1), so that every path matters.
  void randomize(uint64_t seed);
  void set_weight(const std::string& name, const std::vector<double>& values);
  std::vector<double> weight(const std::string& name) const;
  std::vector<double> gradient(const std::string& name);
  std::vector<std::string> names() const;

  // Sequences of equal length, tokens and labels back to back.
  void set_batch(const std::vector<int32_t>& tokens, const std::vector<int32_t>& labels,
                 std::vector<int32_t> offsets);

  // The mean loss over the labels that count, and with gradients (of the mean) added to what is
  // there; gradients in the arena are begun.
  double loss();
  double loss_and_gradients();
  void zero_gradients();
  std::vector<double> logits();

  Engine& engine() { return engine_; }

 private:
  const ParameterInfo& info(const std::string& name) const;
  Tensor flat(const Tensor& all, const ParameterInfo& parameter) const;
  std::vector<double> read(const Tensor& tensor);
  double mean_loss(const Tensor& losses);
  kernels::Sequences sequences() const;

  Engine engine_;
  std::vector<int32_t> offsets_;
  std::vector<int32_t> labels_;
  Buffer ids_;
  Tensor token_view_;
  Tensor label_view_;
  Tensor offset_view_;
  Buffer losses_;
  std::map<std::string, std::vector<double>> weights_;
};

}  // namespace gsa::test
