// gsa bench comm: the collectives of a step, by themselves and beside products.
#include <chrono>
#include <functional>
#include <optional>

#include "kernels/matmul.h"
#include "trainer/cli/bench.h"
#include "trainer/model/language_model.h"
#include "trainer/model/tape.h"
#include "trainer/optimizer/sharded_adamw.h"

namespace gsa {
namespace {

constexpr double bytes_per_gib = 1024.0 * 1024.0 * 1024.0;
constexpr int runs = 5;
// About the products of a block's backward pass.
constexpr int products_a_bucket = 4;

// The collectives of all buckets, behind products of about as much work as a block has.
class CommBench {
 public:
  CommBench(const Config& config, Session& session)
      : ranks_(*session.communicator),
        parameters_(session.device, session.dtype, ranks_.size()),
        model_(config.model, parameters_),
        compute_(session.device),
        communication_(session.device, ranks_.priority()),
        done_(session.device),
        scratch_(session.device, size_t{64} << 20) {
    parameters_.allocate(ParameterStore::Memory::real);
    open_.emplace(ranks_, parameters_.all_weights(),
                  ShardedAdamW::largest_part_bytes(parameters_, ranks_.size()));
    compute_.set_scratch(&scratch_);
    const int64_t tokens = config.train.micro_batch * config.data.sequence_length;
    const int64_t hidden = config.model.hidden;
    const int64_t width = 2 * config.model.resolved_intermediate();
    const auto make = [&](Buffer& memory, int64_t rows, int64_t columns) {
      memory = Buffer(session.device, static_cast<size_t>(rows * columns) * size_of(session.dtype));
      return memory.tensor(session.dtype, {rows, columns});
    };
    product_ = {.a = make(input_, tokens, hidden),
                .b = make(weight_, width, hidden),
                .transpose_b = kernels::Transpose::yes,
                .c = make(output_, tokens, width)};
    fill_normal(compute_, input_.tensor(session.dtype, {tokens, hidden}), 1.0, 1);
    fill_normal(compute_, weight_.tensor(session.dtype, {width, hidden}), 1.0, 2);
  }

  using Collective = void (CommBench::*)(int bucket);
  void reduce_scatter(int bucket) {
    const Tensor gradients = parameters_.bucket_gradients(bucket);
    ranks_.reduce_scatter(communication_, gradients, own(gradients));
  }
  void all_gather(int bucket) {
    const Tensor weights = parameters_.bucket_weights(bucket);
    ranks_.all_gather(communication_, own(weights), weights);
  }

  // Milliseconds of the collective of all buckets, one after the other.
  double alone(Collective collective) {
    return timed(communication_, [&] {
      for (int bucket = 0; bucket < parameters_.buckets(); ++bucket) {
        (this->*collective)(bucket);
      }
    });
  }
  // Milliseconds of products for all buckets, behind each of which its collective begins.
  double products(Collective beside = nullptr) {
    const double ms = timed(compute_, [&] {
      for (int bucket = 0; bucket < parameters_.buckets(); ++bucket) {
        for (int i = 0; i < products_a_bucket; ++i) {
          kernels::matmul(compute_, product_);
        }
        if (beside != nullptr) {
          done_.record(compute_);
          communication_.wait(done_);
          (this->*beside)(bucket);
        }
      }
    });
    communication_.synchronize();
    return ms;
  }

  const ParameterStore& parameters() const { return parameters_; }

 private:
  Tensor own(const Tensor& bucket) const {
    const int64_t part = bucket.count() / ranks_.size();
    return bucket.rows(part * ranks_.rank(), part * (ranks_.rank() + 1));
  }
  double timed(Stream& stream, const std::function<void()>& work) {
    work();
    stream.synchronize();
    ranks_.barrier();
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < runs; ++i) {
      work();
    }
    stream.synchronize();
    ranks_.barrier();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() * 1e3 /
           runs;
  }

  Communicator& ranks_;
  ParameterStore parameters_;
  LanguageModel model_;
  std::optional<OpenMemory> open_;
  Stream compute_;
  Stream communication_;
  Event done_;
  Tape scratch_;
  Buffer input_;
  Buffer weight_;
  Buffer output_;
  kernels::Matmul product_;
};

}  // namespace

BenchResult bench_comm(const Config& config, Session& session) {
  BenchResult result;
  describe_machine(session, result);
  CommBench bench(config, session);
  const double scatter = bench.alone(&CommBench::reduce_scatter);
  const double gather = bench.alone(&CommBench::all_gather);
  const double gradients = double(bench.parameters().all_gradients().bytes());
  const double weights = double(bench.parameters().all_weights().bytes());
  const double share = 1.0 - 1.0 / session.communicator->size();
  result.add("gradient_gib", gradients / bytes_per_gib);
  result.add("reduce_scatter_ms", scatter);
  result.add("all_gather_ms", gather);
  result.add("reduce_scatter_bus_gb_s", share * gradients / scatter / 1e6);
  result.add("all_gather_bus_gb_s", share * weights / gather / 1e6);
  result.add("products_ms", bench.products());
  result.add("products_beside_reduce_scatter_ms", bench.products(&CommBench::reduce_scatter));
  result.add("products_beside_all_gather_ms", bench.products(&CommBench::all_gather));
  return result;
}

}  // namespace gsa
