#include "trainer/checkpoint/rank_file.h"

#include <algorithm>
#include <bit>
#include <future>
#include <type_traits>

#include "trainer/checkpoint/files.h"
#include "trainer/checkpoint/hdf5_handles.h"

namespace gsa {
namespace {

namespace fs = std::filesystem;

constexpr hsize_t range_columns = 4;  // parameter, begin, end, offset
constexpr const char* ranges_name = "ranges";
// Disk reserved beyond the buffers: alignment of each and what HDF5 keeps about them.
constexpr uint64_t reserve_beyond = uint64_t{1} << 16;

// The files are little-endian and read as they lie, the table as an array of ranges.
static_assert(std::endian::native == std::endian::little);
static_assert(std::is_trivially_copyable_v<CheckpointRange> &&
              sizeof(CheckpointRange) == range_columns * sizeof(int64_t) &&
              sizeof(size_t) == sizeof(int64_t));

// Adds the table. Returns its place.
uint64_t add_ranges(const Hdf5Id& file, std::span<const CheckpointRange> ranges,
                    const std::string& name) {
  std::vector<int64_t> table;
  for (const CheckpointRange& range : ranges) {
    table.insert(table.end(),
                 {static_cast<int64_t>(range.parameter), range.begin, range.end, range.offset});
  }
  const std::array<hsize_t, 2> dims{ranges.size(), range_columns};
  const Hdf5Id space =
      owned(H5Screate_simple(2, dims.data(), nullptr), H5Sclose, name, ranges_name);
  const Hdf5Id dataset = owned(
      H5Dcreate2(file, ranges_name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
      H5Dclose, name, ranges_name);
  write_attribute(dataset, "columns", "parameter begin end offset", name);
  if (!table.empty()) {
    check_hdf5(H5Dwrite(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, table.data()),
               name, ranges_name);
  }
  return offset_of(dataset);
}

// The file without room for its buffers. Notes in `parts` where the table lies.
std::vector<std::byte> outline(const CheckpointShard& shard, const std::string& name,
                               RankFileParts& parts) {
  const Hdf5Id file = create_in_memory(name);
  parts.rows = static_cast<int64_t>(shard.ranges.size());
  parts.ranges = add_ranges(file, shard.ranges, name);
  const Hdf5Id creation = owned(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, name, "buffers");
  check_hdf5(H5Pset_alloc_time(creation, H5D_ALLOC_TIME_LATE), name, "buffers");
  check_hdf5(H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER), name, "buffers");
  for (const FlatBuffer& buffer : flat_buffers) {
    const hsize_t elements = (shard.*buffer.values).size();
    const Hdf5Id space =
        owned(H5Screate_simple(1, &elements, nullptr), H5Sclose, name, buffer.dataset);
    owned(
        H5Dcreate2(file, buffer.dataset, H5T_IEEE_F32LE, space, H5P_DEFAULT, creation, H5P_DEFAULT),
        H5Dclose, name, buffer.dataset);
  }
  return image_of(file, name);
}

// Has HDF5 give a dataset its place in the file, by writing its last element. Returns the place.
uint64_t place(const Hdf5Id& file, const char* dataset_name, std::span<const float> values,
               const std::string& name) {
  const Hdf5Id dataset =
      owned(H5Dopen2(file, dataset_name, H5P_DEFAULT), H5Dclose, name, dataset_name);
  const Hdf5Id space = owned(H5Dget_space(dataset), H5Sclose, name, dataset_name);
  const hsize_t last = values.size() - 1;
  const hsize_t one = 1;
  check_hdf5(H5Sselect_hyperslab(space, H5S_SELECT_SET, &last, nullptr, &one, nullptr), name,
             dataset_name);
  const Hdf5Id memory = owned(H5Screate_simple(1, &one, nullptr), H5Sclose, name, dataset_name);
  check_hdf5(H5Dwrite(dataset, H5T_NATIVE_FLOAT, memory, space, H5P_DEFAULT, &values.back()), name,
             dataset_name);
  const uint64_t offset = offset_of(dataset);
  check_hdf5(offset == 0 ? -1 : 0, name, dataset_name);
  return offset;
}

}  // namespace

WrittenRankFile write_rank_file(const fs::path& path, const CheckpointShard& shard) {
  const QuietHdf5 quiet;
  const std::string name = path.string();
  RankFileParts parts{.elements = static_cast<int64_t>(shard.master.size())};
  const std::vector<std::byte> image = outline(shard, name, parts);
  uint64_t bytes = image.size() + reserve_beyond;
  for (const FlatBuffer& buffer : flat_buffers) {
    bytes += (shard.*buffer.values).size_bytes();
  }
  {
    OutputFile file(path);
    file.reserve(bytes);
    file.write_at(0, image);
  }
  if (!shard.master.empty()) {
    Hdf5Id file = open_hdf5(path);
    for (size_t i = 0; i < flat_buffers.size(); ++i) {
      parts.buffers[i] = place(file, flat_buffers[i].dataset, shard.*flat_buffers[i].values, name);
    }
    check_hdf5(file.close() ? 0 : -1, name, "cannot be laid out");
  }
  std::vector<FilePart> buffers;
  for (size_t i = 0; i < flat_buffers.size() && !shard.master.empty(); ++i) {
    buffers.push_back({parts.buffers[i], std::as_bytes(shard.*flat_buffers[i].values)});
  }
  std::sort(buffers.begin(), buffers.end(),
            [](const FilePart& a, const FilePart& b) { return a.offset < b.offset; });
  std::future<FileDigest> digest =
      std::async(std::launch::async, [&path, &buffers] { return digest_file(path, buffers); });
  OutputFile file(path, /*existing=*/true);
  for (const FilePart& buffer : buffers) {
    file.write_at(buffer.offset, buffer.bytes);
  }
  file.sync();
  return {parts, digest.get()};
}

namespace {

void require_parts(const RankFileParts& parts, const InputFile& file, const std::string& name) {
  if (!parts.fit(file.bytes())) {
    throw CheckpointError(name + ": its parts lie outside of its " + std::to_string(file.bytes()) +
                          " bytes; the checkpoint is damaged: use an earlier one");
  }
}

std::vector<CheckpointRange> read_ranges(const InputFile& file, const RankFileParts& parts,
                                         const std::string& name, std::span<const int64_t> counts) {
  std::vector<CheckpointRange> ranges(static_cast<size_t>(parts.rows));
  file.read_at(parts.ranges, std::as_writable_bytes(std::span(ranges)));
  int64_t room = parts.elements;
  for (size_t row = 0; row < ranges.size(); ++row) {
    const CheckpointRange& range = ranges[row];
    if (range.parameter >= counts.size() || range.begin < 0 || range.end < range.begin ||
        range.end > counts[range.parameter] || range.offset < 0 ||
        range.offset > parts.elements - (range.end - range.begin)) {
      throw CheckpointError(name + ": row " + std::to_string(row) + " of " + ranges_name +
                            " lies outside of its parameter; the file is damaged");
    }
    room -= range.end - range.begin;
    if (room < 0) {
      throw CheckpointError(name + ": " + ranges_name + " names more than the file's " +
                            std::to_string(parts.elements) + " elements; the file is damaged");
    }
  }
  return ranges;
}

// A run of elements that a file has and a shard wants.
struct Piece {
  int64_t file_offset;
  int64_t shard_offset;
  int64_t count;
};

std::vector<Piece> common_pieces(std::span<const CheckpointRange> stored,
                                 std::span<const CheckpointRange> wanted) {
  std::vector<Piece> pieces;
  for (const CheckpointRange& there : stored) {
    auto here = std::lower_bound(
        wanted.begin(), wanted.end(), there.parameter,
        [](const CheckpointRange& range, size_t parameter) { return range.parameter < parameter; });
    for (; here != wanted.end() && here->parameter == there.parameter; ++here) {
      const int64_t begin = std::max(there.begin, here->begin);
      const int64_t end = std::min(there.end, here->end);
      if (begin < end) {
        pieces.push_back(
            {there.offset + begin - there.begin, here->offset + begin - here->begin, end - begin});
      }
    }
  }
  return pieces;
}

}  // namespace

bool RankFileParts::fit(uint64_t bytes) const {
  const auto lies_inside = [bytes](uint64_t offset, int64_t count, uint64_t size) {
    return count >= 0 && static_cast<uint64_t>(count) <= bytes / size &&
           offset <= bytes - static_cast<uint64_t>(count) * size;
  };
  return lies_inside(ranges, rows, sizeof(CheckpointRange)) &&
         std::all_of(buffers.begin(), buffers.end(),
                     [&](uint64_t offset) { return lies_inside(offset, elements, sizeof(float)); });
}

RankLayout read_rank_layout(const fs::path& path, const RankFileParts& parts,
                            std::span<const int64_t> counts) {
  const InputFile file(path);
  require_parts(parts, file, path.string());
  return {parts.elements, read_ranges(file, parts, path.string(), counts)};
}

int64_t read_rank_file(const fs::path& path, const RankFileParts& parts,
                       std::span<const int64_t> counts, const CheckpointShard& shard) {
  const InputFile file(path);
  require_parts(parts, file, path.string());
  const std::vector<Piece> pieces =
      common_pieces(read_ranges(file, parts, path.string(), counts), shard.ranges);
  int64_t copied = 0;
  for (const Piece& piece : pieces) {
    copied += piece.count;
  }
  for (size_t i = 0; i < flat_buffers.size(); ++i) {
    const std::span<float> values = shard.*flat_buffers[i].values;
    if (values.empty()) {
      continue;
    }
    for (const Piece& piece : pieces) {
      const auto target =
          values.subspan(static_cast<size_t>(piece.shard_offset), static_cast<size_t>(piece.count));
      file.read_at(parts.buffers[i] + static_cast<uint64_t>(piece.file_offset) * sizeof(float),
                   std::as_writable_bytes(target));
    }
  }
  return copied;
}

}  // namespace gsa
