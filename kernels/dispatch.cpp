// Sends each operation to the backend of its stream: checks the arguments, lends the workspace,
// tells the observer, and runs nothing on a planning stream.
#include <type_traits>
#include <utility>

#include "kernels/backends.h"

namespace gsa::kernels {
namespace {

// Lends a workspace from the stream's scratch memory for as long as it lives.
class Workspace {
 public:
  Workspace(Stream& stream, size_t bytes) : scratch_(stream.scratch()), bytes_(bytes) {
    if (bytes_ == 0) {
      return;
    }
    if (scratch_ == nullptr) {
      throw std::logic_error(
          "an operation needs a workspace, but its stream has no scratch memory");
    }
    data_ = scratch_->lend(bytes_);
  }
  ~Workspace() {
    if (data_ != nullptr) {
      scratch_->give_back(bytes_);
    }
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  std::byte* data() const { return data_; }

 private:
  ScratchMemory* scratch_;
  size_t bytes_;
  std::byte* data_ = nullptr;
};

template <typename Arguments>
double flops_of(const Arguments& args) {
  if constexpr (requires { args.flops(); }) {
    return args.flops();
  } else {
    return 0;
  }
}

// Runs `run` between the observer's two calls, unless the stream only plans.
template <typename Arguments, typename Run>
void observed(Stream& stream, const Arguments& args, const char* phase, Run&& run) {
  OperationObserver* observer = stream.observer();
  if (observer != nullptr) {
    if constexpr (std::is_same_v<Arguments, Matmul>) {
      observer->product(args);
    } else if constexpr (requires { args.product(); }) {
      if (stream.device() == Device::cpu || !cuda::computes_by_tiles(args)) {
        observer->product(args.product());
      }
    }
    observer->before(phase);
  }
  if (!stream.is_planning()) {
    std::forward<Run>(run)();
  }
  if (observer != nullptr) {
    observer->after(phase, flops_of(args));
  }
}

}  // namespace

#define GSA_OPERATION(function, Arguments, phase)        \
  void function(Stream& stream, const Arguments& args) { \
    args.check();                                        \
    observed(stream, args, phase, [&] {                  \
      if (stream.device() == Device::cpu) {              \
        cpu::function(stream, args);                     \
      } else {                                           \
        cuda::function(stream, args);                    \
      }                                                  \
    });                                                  \
  }

#define GSA_OPERATION_WITH_WORKSPACE(function, Arguments, phase)                              \
  void function(Stream& stream, const Arguments& args) {                                      \
    args.check();                                                                             \
    const bool on_cpu = stream.device() == Device::cpu;                                       \
    const Workspace workspace(                                                                \
        stream, on_cpu ? cpu::function##_workspace(args) : cuda::function##_workspace(args)); \
    observed(stream, args, phase, [&] {                                                       \
      if (on_cpu) {                                                                           \
        cpu::function(stream, args, workspace.data());                                        \
      } else {                                                                                \
        cuda::function(stream, args, workspace.data());                                       \
      }                                                                                       \
    });                                                                                       \
  }

#include "kernels/operations.def"

size_t gsa_chunked_saved_bytes(const GsaForward& args) {
  return args.q.device() == Device::cpu ? cpu::gsa_chunked_saved_bytes(args)
                                        : cuda::gsa_chunked_saved_bytes(args);
}

std::string product_library(const Stream& stream) {
  return stream.device() == Device::cpu ? "" : cuda::product_library();
}

namespace {

void require_choice(const Stream& stream, const Matmul& product) {
  product.check();
  if (stream.device() == Device::cpu) {
    throw std::logic_error("products on the CPU have no algorithms to choose from");
  }
}

}  // namespace

ProductMeasurement measure_product(Stream& stream, const Matmul& product) {
  require_choice(stream, product);
  return cuda::measure_product(stream, product);
}

std::string first_proposal(const Stream& stream, const Matmul& product) {
  require_choice(stream, product);
  return cuda::first_proposal(product);
}

bool choose_product(const Stream& stream, const Matmul& product, const std::string& algorithm) {
  product.check();
  return stream.device() != Device::cpu && cuda::choose_product(product, algorithm);
}

}  // namespace gsa::kernels
