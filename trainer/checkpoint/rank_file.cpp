#include "trainer/checkpoint/rank_file.h"

#include <algorithm>

#include "trainer/checkpoint/files.h"
#include "trainer/checkpoint/hdf5_handles.h"

namespace gsa {
namespace {

namespace fs = std::filesystem;

constexpr hsize_t range_columns = 4;  // parameter, begin, end, offset
constexpr const char* ranges_name = "ranges";
// Disk reserved beyond the buffers: alignment of each and what HDF5 keeps about them.
constexpr uint64_t reserve_beyond = uint64_t{1} << 16;

void add_ranges(const Hdf5Id& file, std::span<const CheckpointRange> ranges,
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
}

// The file without room for its buffers.
std::vector<std::byte> outline(const CheckpointShard& shard, const std::string& name) {
  const Hdf5Id file = create_in_memory(name);
  add_ranges(file, shard.ranges, name);
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
  const haddr_t offset = H5Dget_offset(dataset);
  check_hdf5(offset == HADDR_UNDEF ? -1 : 0, name, dataset_name);
  return offset;
}

}  // namespace

void write_rank_file(const fs::path& path, const CheckpointShard& shard) {
  const QuietHdf5 quiet;
  const std::string name = path.string();
  const std::vector<std::byte> image = outline(shard, name);
  uint64_t bytes = image.size() + reserve_beyond;
  for (const FlatBuffer& buffer : flat_buffers) {
    bytes += (shard.*buffer.values).size_bytes();
  }
  {
    OutputFile file(path);
    file.reserve(bytes);
    file.write_at(0, image);
  }
  std::array<uint64_t, flat_buffers.size()> offsets{};
  if (!shard.master.empty()) {
    Hdf5Id file = open_hdf5(path, H5F_ACC_RDWR);
    for (size_t i = 0; i < flat_buffers.size(); ++i) {
      offsets[i] = place(file, flat_buffers[i].dataset, shard.*flat_buffers[i].values, name);
    }
    check_hdf5(file.close() ? 0 : -1, name, "cannot be laid out");
  }
  OutputFile file(path, /*existing=*/true);
  for (size_t i = 0; i < flat_buffers.size(); ++i) {
    file.write_at(offsets[i], std::as_bytes(shard.*flat_buffers[i].values));
  }
  file.sync();
}

namespace {

// Elements of a one-dimensional float32 dataset.
int64_t buffer_size(const Hdf5Id& dataset, const std::string& file, const char* name) {
  const Hdf5Id space = owned(H5Dget_space(dataset), H5Sclose, file, name);
  hsize_t elements = 0;
  if (H5Sget_simple_extent_ndims(space) != 1 ||
      H5Sget_simple_extent_dims(space, &elements, nullptr) != 1 ||
      elements > static_cast<hsize_t>(INT64_MAX)) {
    throw CheckpointError(file + ": " + name + " is not a flat buffer; the file is damaged");
  }
  return static_cast<int64_t>(elements);
}

std::vector<int64_t> read_table(const Hdf5Id& file, const std::string& name) {
  const Hdf5Id dataset =
      owned(H5Dopen2(file, ranges_name, H5P_DEFAULT), H5Dclose, name, ranges_name);
  const Hdf5Id space = owned(H5Dget_space(dataset), H5Sclose, name, ranges_name);
  std::array<hsize_t, 2> dims{};
  // What lies in the file bounds what is allocated: the table's own word is not enough.
  if (H5Sget_simple_extent_ndims(space) != 2 ||
      H5Sget_simple_extent_dims(space, dims.data(), nullptr) != 2 || dims[1] != range_columns ||
      dims[0] > H5Dget_storage_size(dataset) / (range_columns * sizeof(int64_t))) {
    throw CheckpointError(name + ": " + ranges_name + " is not a table; the file is damaged");
  }
  std::vector<int64_t> table(dims[0] * range_columns);
  if (!table.empty()) {
    check_hdf5(H5Dread(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, table.data()),
               name, ranges_name);
  }
  return table;
}

RankLayout read_layout(const Hdf5Id& file, const std::string& name,
                       std::span<const int64_t> counts) {
  const char* master = flat_buffers.front().dataset;
  const Hdf5Id dataset = owned(H5Dopen2(file, master, H5P_DEFAULT), H5Dclose, name, master);
  RankLayout layout;
  layout.elements = buffer_size(dataset, name, master);
  const std::vector<int64_t> table = read_table(file, name);
  for (size_t row = 0; row < table.size(); row += range_columns) {
    const CheckpointRange range{static_cast<size_t>(table[row]), table[row + 1], table[row + 2],
                                table[row + 3]};
    if (range.parameter >= counts.size() || range.begin < 0 || range.end < range.begin ||
        range.end > counts[range.parameter] || range.offset < 0 ||
        range.offset > layout.elements - (range.end - range.begin)) {
      throw CheckpointError(name + ": row " + std::to_string(row / range_columns) + " of " +
                            ranges_name + " lies outside of its parameter; the file is damaged");
    }
    layout.ranges.push_back(range);
  }
  return layout;
}

// A run of elements that a file has and a shard wants.
struct Piece {
  int64_t file_offset;
  int64_t shard_offset;
  int64_t count;
};

std::vector<Piece> common_pieces(const RankLayout& layout, const CheckpointShard& shard) {
  std::vector<std::vector<const CheckpointRange*>> wanted(shard.parameters.size());
  for (const CheckpointRange& range : shard.ranges) {
    wanted.at(range.parameter).push_back(&range);
  }
  std::vector<Piece> pieces;
  for (const CheckpointRange& there : layout.ranges) {
    for (const CheckpointRange* here : wanted[there.parameter]) {
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

void read_pieces(const Hdf5Id& file, const std::string& name, const char* dataset_name,
                 int64_t elements, std::span<const Piece> pieces, std::span<float> values) {
  const Hdf5Id dataset =
      owned(H5Dopen2(file, dataset_name, H5P_DEFAULT), H5Dclose, name, dataset_name);
  if (buffer_size(dataset, name, dataset_name) != elements) {
    throw CheckpointError(name + ": " + dataset_name +
                          " has not the size of the master weights; the file is damaged");
  }
  const Hdf5Id space = owned(H5Dget_space(dataset), H5Sclose, name, dataset_name);
  for (const Piece& piece : pieces) {
    const auto start = static_cast<hsize_t>(piece.file_offset);
    const auto count = static_cast<hsize_t>(piece.count);
    check_hdf5(H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, nullptr, &count, nullptr), name,
               dataset_name);
    const Hdf5Id memory = owned(H5Screate_simple(1, &count, nullptr), H5Sclose, name, dataset_name);
    float* target = values.data() + piece.shard_offset;
    check_hdf5(H5Dread(dataset, H5T_NATIVE_FLOAT, memory, space, H5P_DEFAULT, target), name,
               dataset_name);
  }
}

}  // namespace

RankLayout read_rank_layout(const fs::path& path, std::span<const int64_t> counts) {
  const QuietHdf5 quiet;
  return read_layout(open_hdf5(path, H5F_ACC_RDONLY), path.string(), counts);
}

int64_t read_rank_file(const fs::path& path, std::span<const int64_t> counts,
                       const CheckpointShard& shard) {
  const QuietHdf5 quiet;
  const Hdf5Id file = open_hdf5(path, H5F_ACC_RDONLY);
  const RankLayout layout = read_layout(file, path.string(), counts);
  const std::vector<Piece> pieces = common_pieces(layout, shard);
  int64_t copied = 0;
  for (const Piece& piece : pieces) {
    copied += piece.count;
  }
  for (const FlatBuffer& buffer : flat_buffers) {
    const std::span<float> values = shard.*buffer.values;
    if (!values.empty() && copied > 0) {
      read_pieces(file, path.string(), buffer.dataset, layout.elements, pieces, values);
    }
  }
  return copied;
}

}  // namespace gsa
