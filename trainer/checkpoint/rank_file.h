// rank-XXXX.h5: one rank's flat buffers, and which parts of which parameters they hold. Laid out by
// HDF5, read without it. For this folder only.
//
//   /master, /first_moment, /second_moment   float32 [elements], contiguous
//   /ranges                                  int64 [n, 4]: parameter, begin, end, offset
#pragma once

#include <array>
#include <filesystem>
#include <vector>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/files.h"

namespace gsa {

// A flat buffer of a shard and its name in the files: of the dataset here, and of the group in
// model.h5.
struct FlatBuffer {
  const char* dataset;
  const char* group;
  std::span<float> CheckpointShard::*values;
};
inline constexpr std::array<FlatBuffer, 3> flat_buffers{
    FlatBuffer{"master", "parameters", &CheckpointShard::master},
    FlatBuffer{"first_moment", "first_moment", &CheckpointShard::first_moment},
    FlatBuffer{"second_moment", "second_moment", &CheckpointShard::second_moment}};

// Where the parts of a rank file lie, in bytes from its beginning; 0 where there is nothing. The
// manifest keeps it: whoever knows it needs no HDF5 to read the file.
struct RankFileParts {
  int64_t elements = 0;                                    // of each flat buffer
  std::array<uint64_t, flat_buffers.size()> buffers = {};  // in the order of flat_buffers
  int64_t rows = 0;                                        // of the table
  uint64_t ranges = 0;

  bool operator==(const RankFileParts&) const = default;
  // Whether they can lie in a file of so many bytes.
  bool fit(uint64_t bytes) const;
};

// Which part of the model a rank file holds.
struct RankLayout {
  int64_t elements = 0;  // of each flat buffer
  std::vector<CheckpointRange> ranges;
};

// What a rank file has become.
struct WrittenRankFile {
  RankFileParts parts;
  FileDigest digest;
};

// Writes the file and has it on the disk when it returns; a thread of its own makes the digest in
// the meantime. Throws CheckpointError; on a full disk HDF5 is never the one to notice, because
// after a failed write it cannot be left in peace.
WrittenRankFile write_rank_file(const std::filesystem::path& path, const CheckpointShard& shard);

// Reads what the file holds. Neither the file nor `parts` are believed: throws CheckpointError
// unless the parts lie inside the file, and every range inside the file's buffers and its parameter
// (`counts`: elements of each), all of them together no larger than a buffer.
RankLayout read_rank_layout(const std::filesystem::path& path, const RankFileParts& parts,
                            std::span<const int64_t> counts);

// Copies what the file and the shard have in common into the shard's buffers, those of them that
// are not empty. The shard's ranges come in the order of their parameters. Returns the number of
// elements copied to each buffer. Throws like read_rank_layout.
int64_t read_rank_file(const std::filesystem::path& path, const RankFileParts& parts,
                       std::span<const int64_t> counts, const CheckpointShard& shard);

}  // namespace gsa
