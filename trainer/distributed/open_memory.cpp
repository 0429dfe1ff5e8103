#include "trainer/distributed/open_memory.h"

#include <cstdint>
#include <exception>

namespace gsa {
namespace {

// Slots begin where vectors may.
constexpr size_t slot_alignment = 256;

size_t slot_bytes(size_t part_bytes) {
  return (part_bytes + slot_alignment - 1) / slot_alignment * slot_alignment;
}

}  // namespace

size_t OpenMemory::slot(int sender, int receiver, size_t part_bytes) {
  return slot_bytes(part_bytes) * static_cast<size_t>(sender < receiver ? sender : sender - 1);
}

size_t OpenMemory::arriving_bytes(size_t part_bytes, int ranks) {
  return slot_bytes(part_bytes) * static_cast<size_t>(ranks - 1);
}

OpenMemory::OpenMemory(Communicator& communicator, const Tensor& gathered, size_t part_bytes)
    : communicator_(communicator) {
  if (communicator_.copies_memory()) {
    arriving_ = Buffer(gathered.device(), arriving_bytes(part_bytes, communicator_.size()));
    communicator_.open_memory(
        gathered, arriving_.tensor(DType::byte, {static_cast<int64_t>(arriving_.bytes())}));
  }
}

OpenMemory::~OpenMemory() {
  if (!communicator_.copies_memory() || std::uncaught_exceptions() > 0) {
    return;
  }
  try {
    communicator_.close_memory();
  } catch (const CommunicationError&) {
    // Who lost the others hears of it at the next call.
  }
}

}  // namespace gsa
