// Algorithms that cuBLASLt takes and its heuristics leave out: tiles of a size that comes out even.
//
// A product goes in rounds of one tile a multiprocessor, and a last round that is nearly empty
// costs as much as a full one: the heuristics' 128 x 256 for a weight gradient of 2048 x 5632 is
// 352 tiles for 132 multiprocessors, 89 % of three rounds; 128 x 344 is 264, all of two. What else
// makes an algorithm (how warps share a tile, blocks a tile's neighbours) goes with the tile's
// shape: the families below are those that won a search over all that the library takes, on an H200
// at its power limit.
#include <algorithm>

#include "kernels/cuda/matmul_library.h"

namespace gsa::kernels::cuda {
namespace {

// The library's numbers (cublasLtMatmulTile_t), which headers before CUDA 13 do not name. Rows and
// columns are the library's: its matrices are ours transposed.
struct Tile {
  int rows;
  int columns;
  uint32_t id;
};
constexpr Tile narrow[] = {{128, 104, 402}, {128, 112, 403}, {128, 120, 404}, {128, 128, 20},
                           {128, 136, 405}, {128, 144, 406}, {128, 152, 407}, {128, 160, 29},
                           {128, 168, 408}, {128, 176, 409}};
constexpr Tile wide[] = {{128, 200, 411}, {128, 208, 412}, {128, 216, 413}, {128, 224, 414},
                         {128, 232, 415}, {128, 240, 416}, {128, 248, 417}, {128, 256, 23},
                         {128, 264, 418}, {128, 272, 419}, {128, 280, 420}, {128, 288, 421},
                         {128, 296, 422}, {128, 304, 423}, {128, 312, 424}, {128, 320, 176},
                         {128, 328, 425}, {128, 336, 426}, {128, 344, 427}, {128, 352, 428}};
constexpr Tile upright[] = {{104, 128, 158}, {112, 128, 165}, {120, 128, 171}, {136, 128, 179},
                            {144, 128, 184}, {152, 128, 189}, {160, 128, 30},  {168, 128, 197},
                            {176, 128, 201}, {184, 128, 205}, {192, 128, 31}};
constexpr Tile high[] = {{256, 72, 492},  {256, 80, 493},  {256, 88, 494},  {256, 96, 495},
                         {256, 104, 496}, {256, 112, 497}, {256, 120, 498}, {256, 128, 24},
                         {256, 136, 499}, {256, 144, 500}, {256, 152, 501}, {256, 160, 502},
                         {256, 168, 503}, {256, 176, 504}};

constexpr uint16_t rows_cluster = 3;     // 2 x 1 x 1
constexpr uint16_t columns_cluster = 5;  // 1 x 2 x 1
constexpr int family_tiles = 4;          // of each family those that come out best

int64_t parts(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

// The share of the rounds' work that counts.
double filling(const Matmul& product, const Tile& tile, int multiprocessors) {
  const int64_t tiles = parts(product.n(), tile.rows) * parts(product.m(), tile.columns);
  const int64_t rounds = parts(tiles, multiprocessors);
  return double(product.n()) * double(product.m()) /
         (double(rounds * multiprocessors) * tile.rows * tile.columns);
}

template <typename Value>
bool set(ProductAlgorithm& algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute, Value value) {
  return cublasLtMatmulAlgoConfigSetAttribute(&algorithm.value, attribute, &value, sizeof(value)) ==
         CUBLAS_STATUS_SUCCESS;
}

class Search {
 public:
  Search(const MatmulLibrary& library, const Matmul& product, const ProductAlgorithm& base)
      : library_(library), product_(product), base_(base) {
    multiprocessors_ = multiprocessors_of_device();
  }

  // Takes the tiles of a family that fill the multiprocessors best, where the library does.
  template <int count>
  void add(const Tile (&tiles)[count], uint32_t option, uint16_t cluster) {
    std::vector<Tile> sorted(tiles, tiles + count);
    std::stable_sort(sorted.begin(), sorted.end(), [&](const Tile& a, const Tile& b) {
      return filling(product_, a, multiprocessors_) > filling(product_, b, multiprocessors_);
    });
    sorted.resize(size_t(std::min(count, family_tiles)));
    for (const Tile& tile : sorted) {
      ProductAlgorithm algorithm = base_;
      if (set(algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID, tile.id) &&
          set(algorithm, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, option) &&
          set(algorithm, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, cluster) &&
          set(algorithm, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, uint32_t{0}) &&
          library_.takes(product_, algorithm)) {
        found_.push_back(algorithm);
      }
    }
  }
  const std::vector<ProductAlgorithm>& found() const { return found_; }

 private:
  const MatmulLibrary& library_;
  const Matmul& product_;
  ProductAlgorithm base_;
  int multiprocessors_ = 0;
  std::vector<ProductAlgorithm> found_;
};

}  // namespace

std::vector<ProductAlgorithm> filling_algorithms(const MatmulLibrary& library,
                                                 const Matmul& product) {
  // How a family's tile is computed: the library's number for it.
  constexpr uint32_t of_upright = 2;
  constexpr uint32_t of_narrow = 3;
  constexpr uint32_t of_wide = 5;
  constexpr uint32_t of_high = 7;
  constexpr size_t oldest_known = 130000;
  if (cublasLtGetVersion() < oldest_known) {
    return {};
  }
  Search search(library, product, library.proposals(product, 1).front());
  search.add(narrow, of_narrow, columns_cluster);
  search.add(narrow, of_narrow, rows_cluster);
  search.add(upright, of_upright, columns_cluster);
  search.add(high, of_high, columns_cluster);
  search.add(wide, of_wide, rows_cluster);
  search.add(wide, of_high, rows_cluster);
  return search.found();
}

}  // namespace gsa::kernels::cuda
