// Checkpoints written in the background while training goes on.
//
// The caller has the rank's shard copied into host memory, the snapshot, and goes on as soon as the
// copies are queued; a thread of each rank waits for them and writes from there. The threads do not
// communicate: at each step boundary the ranks' main threads call `poll`, which tells the others
// how far this rank is and starts the next stage when all have finished one. So MPI is used by one
// thread only, nothing depends on how soon a shared file system shows what another machine wrote,
// and the exchange costs nothing while no checkpoint is being written.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/device.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/distributed/communicator.h"

namespace gsa {

class CheckpointWrite;

// Which checkpoints stay; see apply_retention.
struct RetentionRules {
  int64_t keep = 0;
  int64_t keep_every = 0;
};

class CheckpointWriter {
 public:
  // Bytes of a snapshot of a shard of that many elements.
  static size_t snapshot_bytes(int64_t elements);
  // Snapshots lie in `memory`, snapshot_bytes of it (pinned, where they come from a GPU).
  // `parameters` and `ranges` are as in CheckpointShard and hold for every checkpoint. The
  // communicator must outlive the writer. Retention is applied after each checkpoint, by rank 0.
  CheckpointWriter(Communicator& communicator, std::filesystem::path directory, Buffer memory,
                   std::vector<CheckpointParameter> parameters, std::vector<CheckpointRange> ranges,
                   int64_t elements, RetentionRules retention);
  // Waits for this rank's thread, but not for other ranks: a checkpoint that was not finished with
  // `finish` stays a partial folder, which the next start removes.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // The snapshot's memory, [elements] each: to be filled only while the writer is not busy.
  struct Snapshot {
    Tensor master;
    Tensor first_moment;
    Tensor second_moment;
  };
  Snapshot snapshot() const;

  // Begins to write the checkpoint of metadata.step from the snapshot; collective. The writing
  // thread first calls `wait_for_snapshot`, which returns when it is filled. Never two at once:
  // throws std::logic_error while the writer is busy (call `finish` before).
  void start(const CheckpointMetadata& metadata, std::function<void()> wait_for_snapshot);

  bool busy() const { return writing_ != nullptr; }

  // At a step boundary; collective. The folder of a checkpoint that has become whole. Throws the
  // same CheckpointError on every rank if it could not be written: the debris is gone, earlier
  // checkpoints stay, and training can go on and start another.
  std::optional<std::filesystem::path> poll();

  // Waits until nothing is being written; collective. Returns and throws as `poll`.
  std::optional<std::filesystem::path> finish();

 private:
  Communicator* communicator_;
  std::filesystem::path directory_;
  std::vector<CheckpointParameter> parameters_;
  std::vector<CheckpointRange> ranges_;
  int64_t elements_;
  RetentionRules retention_;
  Buffer memory_;
  std::unique_ptr<CheckpointWrite> writing_;  // after memory_: its thread ends first
};

}  // namespace gsa
