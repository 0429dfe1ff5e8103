#include "trainer/model/engine.h"

namespace gsa {
namespace {

// Counts floating-point operations by phase, and lists the products.
class FlopCounter final : public OperationObserver {
 public:
  void product(const kernels::Matmul& product) override { products_.push_back(product); }
  void before(const char* /*phase*/) override {}
  void after(const char* phase, double flops) override { flops_[phase] += flops; }
  const std::map<std::string, double>& flops() const { return flops_; }
  const std::vector<kernels::Matmul>& products() const { return products_; }

 private:
  std::vector<kernels::Matmul> products_;
  std::map<std::string, double> flops_;
};

// An address for tensors of a planning pass: told apart from "absent", never read.
void* const planning_address = reinterpret_cast<void*>(size_t{1} << 12);  // NOLINT

// Runs `body(model, pass, tokens, labels)` on a planning stream and says what it cost.
template <typename Body>
PassCost plan(const ModelConfig& config, const EngineOptions& options,
              const kernels::Sequences& sequences, Body&& body) {
  ParameterStore parameters(options.device, options.dtype, options.ranks);
  LanguageModel model(config, parameters, options.keep);
  parameters.allocate(ParameterStore::Memory::planning, options.gradients);
  Stream stream = Stream::planning(options.device);
  Tape tape = Tape::planning(options.device);
  FlopCounter counter;
  stream.set_scratch(&tape);
  stream.set_observer(&counter);
  Pass pass{.stream = stream, .tape = tape, .dtype = options.dtype, .sequences = sequences};
  const Tensor ids(planning_address, DType::int32, options.device, {pass.tokens()});
  body(model, pass, ids);
  PassCost cost{
      .arena = tape.peak(), .flops_by_phase = counter.flops(), .products = counter.products()};
  for (const auto& [phase, flops] : cost.flops_by_phase) {
    cost.flops += flops;
  }
  return cost;
}

}  // namespace

HostSequences::HostSequences(int64_t count, int64_t length) {
  for (int64_t i = 0; i <= count; ++i) {
    offsets_.push_back(static_cast<int32_t>(i * length));
  }
}

kernels::Sequences HostSequences::view(Device device) const {
  return {.host = offsets_,
          .offsets = ConstTensor(offsets_.data(), DType::int32, device,
                                 {static_cast<int64_t>(offsets_.size())})};
}

PassCost plan_training(const ModelConfig& config, const EngineOptions& options,
                       const kernels::Sequences& sequences) {
  return plan(config, options, sequences, [](LanguageModel& model, Pass& pass, const Tensor& ids) {
    const Tensor losses(planning_address, pass.statistics(), ids.device(), {pass.tokens()});
    model.forward_backward(pass, ids, ids, 1.0, losses);
  });
}

PassCost plan_reading(const ModelConfig& config, const EngineOptions& options,
                      const kernels::Sequences& sequences, bool all_logits) {
  return plan(config, options, sequences, [&](LanguageModel& model, Pass& pass, const Tensor& ids) {
    const Tensor losses(planning_address, pass.statistics(), ids.device(), {pass.tokens()});
    model.loss(pass, ids, ids, losses);
    if (all_logits) {
      model.logits(
          pass, ids,
          {planning_address, pass.dtype, ids.device(), {pass.tokens(), config.vocabulary}});
    }
  });
}

Engine::Engine(const ModelConfig& config, const EngineOptions& options)
    : config_(config),
      options_(options),
      parameters_(options.device, options.dtype, options.ranks),
      model_(config, parameters_, options.keep),
      stream_(options.device) {
  parameters_.allocate(options.memory, options.gradients);
}

void Engine::reserve(const ArenaSize& size) {
  const ArenaSize wanted = arena_.with(size);
  if (tape_ != nullptr && wanted == arena_) {
    return;
  }
  stream_.synchronize();
  tape_.reset();  // before the new one: both together might not fit
  tape_ = std::make_unique<Tape>(options_.device, wanted);
  arena_ = wanted;
  stream_.set_scratch(tape_.get());
  if (parameters_.gradients_in_arena()) {
    parameters_.place_gradients(tape_->tail_end());
  }
}

// Whether `reserved` covers the sequences; if not, it does from now on.
bool Engine::covers(Reserved& reserved, const kernels::Sequences& sequences) {
  const Reserved wanted{sequences.tokens(), sequences.count(), sequences.chunks()};
  const bool covered = wanted.tokens <= reserved.tokens && wanted.sequences <= reserved.sequences &&
                       wanted.chunks <= reserved.chunks;
  if (!covered) {
    reserved = wanted;
  }
  return covered;
}

void Engine::reserve_training(const kernels::Sequences& sequences) {
  if (!covers(for_training_, sequences)) {
    reserve(plan_training(config_, options_, sequences).arena);
  }
}

void Engine::reserve_reading(const kernels::Sequences& sequences, bool all_logits) {
  if (!covers(all_logits ? for_all_logits_ : for_reading_, sequences)) {
    reserve(plan_reading(config_, options_, sequences, all_logits).arena);
  }
}

void Engine::reserve_for(const kernels::Sequences& sequences,
                         const std::function<void(LanguageModel& model, Pass& pass)>& queue) {
  const auto body = [&](LanguageModel& model, Pass& pass, const Tensor& /*ids*/) {
    queue(model, pass);
  };
  reserve(plan(config_, options_, sequences, body).arena);
}

Pass Engine::pass(const kernels::Sequences& sequences) {
  tape_->release_tail();
  return {.stream = stream_, .tape = *tape_, .dtype = options_.dtype, .sequences = sequences};
}

}  // namespace gsa
