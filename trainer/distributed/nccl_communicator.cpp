#include "trainer/distributed/nccl_communicator.h"

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <thread>

#include "trainer/distributed/collective.h"
#include "trainer/distributed/mpi_group.h"
#include "trainer/distributed/nccl_watchdog.h"
#include "trainer/distributed/peer_copies.h"

namespace gsa {
namespace {

// Between two looks at an operation of NCCL that is not finished; setting up takes seconds.
constexpr std::chrono::microseconds sleep_between_polls{200};

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return ncclFloat64;
    case DType::float32:
      return ncclFloat32;
    case DType::bfloat16:
      return ncclBfloat16;
    case DType::int32:
      return ncclInt32;
    case DType::byte:
      return ncclUint8;
    case DType::int16:
      break;
  }
  throw std::invalid_argument("NCCL has no such element type");
}

// For the answers of ranks that noticed a failure at nearly the same time.
constexpr double roll_call_seconds = 15;

cudaStream_t native(const Stream& stream) {
  return static_cast<cudaStream_t>(stream.native());
}

// NCCL's sums run in an order that its algorithm and the ranks' places fix: the same on every run
// on the same machines.
class NcclCommunicator final : public Communicator {
 public:
  explicit NcclCommunicator(double timeout_seconds)
      : group_(timeout_seconds), timeout_(timeout_seconds) {
    // NVLink multicast is off unless the user asks for it: it fails on machines that are shared.
    setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0);
    const ncclUniqueId id = agree_on_id();
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;  // so that a rank that does not come is noticed
    std::string error;
    try {
      check(ncclCommInitRankConfig(&comm_, size(), id, rank(), &config), "setting up NCCL");
    } catch (const CommunicationError& failure) {
      error = failure.what();
    }
    // All ranks go on or none does.
    try {
      require_all_well(group_.all_gather_text(error));
    } catch (const CommunicationError&) {
      give_up();
      throw;
    }
    connect_copies();
    watchdog_.emplace(comm_, rank(), local_rank(), timeout_, [this] { stop_waiting(); });
  }

  ~NcclCommunicator() override {
    if (comm_ == nullptr) {
      return;
    }
    if (std::uncaught_exceptions() > 0) {
      give_up();
      return;
    }
    if (watchdog_ && watchdog_->has_aborted()) {
      give_up();
      return;
    }
    watchdog_.reset();
    try {
      check(ncclCommFinalize(comm_), "closing NCCL");
      ncclCommDestroy(comm_);
    } catch (const CommunicationError&) {
      give_up();
    }
  }

  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  int local_rank() const override { return group_.local_rank(); }
  int local_size() const override { return group_.local_size(); }

  void reduce_scatter(Stream& stream, ConstTensor input, Tensor output) override {
    check_reduce_scatter(stream, input, output, size());
    const ObservedCollective observed(stream);
    if (!stream.is_planning()) {
      queue("reduce_scatter", stream, [&](const char* name) {
        if (copies_ && copies_->can_reduce(output)) {
          copies_->reduce_scatter(stream, input, output);
          return;
        }
        check(ncclReduceScatter(input.data(), output.data(), static_cast<size_t>(output.count()),
                                nccl_type(input.dtype()), ncclSum, comm_, native(stream)),
              name);
      });
    }
  }

  void all_gather(Stream& stream, ConstTensor input, Tensor output) override {
    check_all_gather(stream, input, output, size());
    const ObservedCollective observed(stream);
    if (!stream.is_planning()) {
      queue("all_gather", stream, [&](const char* name) {
        if (copies_ && copies_->can_gather(output)) {
          copies_->all_gather(stream, input, output);
          return;
        }
        check(ncclAllGather(input.data(), output.data(), static_cast<size_t>(input.count()),
                            nccl_type(input.dtype()), comm_, native(stream)),
              name);
      });
    }
  }

  void all_reduce(Stream& stream, Tensor tensor) override {
    check_all_reduce(stream, tensor);
    const ObservedCollective observed(stream);
    if (!stream.is_planning()) {
      queue("all_reduce", stream, [&](const char* name) {
        check(ncclAllReduce(tensor.data(), tensor.data(), static_cast<size_t>(tensor.count()),
                            nccl_type(tensor.dtype()), ncclSum, comm_, native(stream)),
              name);
      });
    }
  }

  std::string transport() const override {
    if (copies_) {
      return "copies between GPUs, NCCL for sums of scalars";
    }
    return why_not_copies_.empty() ? "NCCL"
                                   : "NCCL (no copies between GPUs: " + why_not_copies_ + ")";
  }
  bool copies_memory() const override { return copies_ != nullptr; }
  void open_memory(const Tensor& gathered, const Tensor& arriving) override {
    require_healthy();
    if (copies_) {
      copies_->open(group_, gathered, arriving);
    }
  }
  void close_memory() override {
    require_healthy();
    if (copies_) {
      copies_->close(group_);
    }
  }

  void require_healthy() override {
    const std::string failure = watchdog_ ? watchdog_->failure() : "";
    if (!failure.empty()) {
      throw CommunicationError(failure + roll_call());
    }
  }

  void barrier() override {
    require_healthy();
    group_.barrier();
  }
  std::vector<std::string> all_gather_text(const std::string& text) override {
    require_healthy();
    return group_.all_gather_text(text);
  }
  std::string broadcast_text(const std::string& text) override {
    require_healthy();
    return group_.broadcast_text(text);
  }

  [[noreturn]] void abort(int exit_code) override {
    give_up();
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  // Queues a collective and has it watched.
  template <typename Call>
  void queue(const char* name, const Stream& stream, const Call& call) {
    const std::lock_guard in_use(watchdog_->in_use());
    require_healthy();
    call(name);
    watchdog_->queued(name, native(stream));
  }

  // Asks all ranks how far they are: who is behind, and who does not answer. Not every rank need
  // have failed: one that still works, or hangs, does not answer either.
  std::string roll_call() {
    const std::vector<std::optional<std::string>> accounts =
        group_.roll_call(watchdog_->account(), roll_call_seconds);
    std::string text;
    for (int other = 0; other < size(); ++other) {
      const std::optional<std::string>& account = accounts[static_cast<size_t>(other)];
      const std::string name = "rank " + std::to_string(other);
      if (!account) {
        text += "; " + name + " does not answer";
      } else if (finished_in(*account) < finished_in(watchdog_->account())) {
        text += "; " + name + " is behind: " + *account;
      }
    }
    return text;
  }

  // Where all ranks ask for them.
  void connect_copies() {
    const char* choice = std::getenv("GSA_PEER_COPIES");
    const std::string own = choice != nullptr && std::strcmp(choice, "on") == 0 ? "on" : "off";
    const std::vector<std::string> all = group_.all_gather_text(own);
    const auto asking = std::count(all.begin(), all.end(), "on");
    if (asking == size()) {
      copies_ = PeerCopies::connect(group_, why_not_copies_);
    } else if (asking > 0) {
      why_not_copies_ = "not all ranks have GSA_PEER_COPIES=on";
    }
  }

  // Rank 0's invitation, on every rank. Throws on every rank if it could not be made.
  ncclUniqueId agree_on_id() {
    ncclUniqueId id{};
    std::string text;
    if (rank() == 0 && ncclGetUniqueId(&id) == ncclSuccess) {
      text.assign(id.internal, sizeof(id.internal));
    }
    text = group_.broadcast_text(text);
    if (text.size() != sizeof(id.internal)) {
      throw CommunicationError(std::string("setting up NCCL: rank 0 could not open it: ") +
                               ncclGetLastError(nullptr) + "; set NCCL_DEBUG=WARN to see why");
    }
    std::memcpy(id.internal, text.data(), sizeof(id.internal));
    return id;
  }

  // Waits until NCCL has taken the call (not until the GPU has run it). Throws CommunicationError.
  void check(ncclResult_t result, const char* operation) {
    const auto deadline = std::chrono::steady_clock::now() + timeout_;
    while (result == ncclInProgress) {
      if (std::chrono::steady_clock::now() >= deadline) {
        // The first collectives connect the ranks: that, too, waits for all of them.
        fail(operation, "no answer from the other ranks within distributed.timeout" +
                            (watchdog_ ? roll_call() : std::string()));
      }
      std::this_thread::sleep_for(sleep_between_polls);
      const ncclResult_t asked = ncclCommGetAsyncError(comm_, &result);
      if (asked != ncclSuccess) {
        result = asked;
      }
    }
    if (result != ncclSuccess) {
      fail(operation, std::string(ncclGetErrorString(result)) + " (" + ncclGetLastError(comm_) +
                          "); set NCCL_DEBUG=WARN to see more");
    }
  }

  [[noreturn]] void fail(const char* operation, const std::string& what) {
    throw CommunicationError(std::string(operation) + " on rank " + std::to_string(rank()) +
                             ": NCCL says: " + what);
  }

  // The GPU no longer waits for other ranks' copies.
  void stop_waiting() {
    if (copies_) {
      copies_->stop_waiting();
    }
  }

  // Frees NCCL without waiting for other ranks. What copies use stays: the GPU may be at it.
  void give_up() {
    stop_waiting();
    const bool aborted = watchdog_ && watchdog_->has_aborted();
    watchdog_.reset();
    static_cast<void>(copies_.release());
    if (comm_ != nullptr && !aborted) {
      ncclCommAbort(comm_);
    }
    comm_ = nullptr;
  }

  MpiGroup group_;
  std::chrono::duration<double> timeout_;
  ncclComm_t comm_ = nullptr;
  std::unique_ptr<PeerCopies> copies_;  // or absent
  std::string why_not_copies_;          // where they were asked for
  std::optional<NcclWatchdog> watchdog_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(double timeout_seconds) {
  return std::make_unique<NcclCommunicator>(timeout_seconds);
}

}  // namespace gsa
