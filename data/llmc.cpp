#include "data/llmc.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>

#include "data/error.h"
#include "data/tokenize_plan.h"

namespace gsa::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kHeaderInts = 256;
constexpr size_t kHeaderBytes = kHeaderInts * sizeof(int32_t);
constexpr std::string_view kEnding = ".bin";

struct Flavour {
  int32_t magic;
  int32_t version;
  TokenWidth width;
};
constexpr std::array<Flavour, 2> kFlavours = {
    {{20240520, 1, TokenWidth::two}, {20240801, 7, TokenWidth::four}}};

const Flavour* flavour_of(int32_t magic) {
  const auto* const found = std::find_if(kFlavours.begin(), kFlavours.end(),
                                         [&](const auto& f) { return f.magic == magic; });
  return found == kFlavours.end() ? nullptr : found;
}

bool has_magic(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  int32_t magic = 0;
  file.read(reinterpret_cast<char*>(&magic), sizeof(magic));
  return file && flavour_of(magic) != nullptr;
}

class LlmcFile final : public TokenFile {
 public:
  explicit LlmcFile(const fs::path& path) : TokenFile(path), file_(path) {
    const auto bytes = file_.bytes();
    std::array<int32_t, 3> header{};  // magic, version, tokens
    if (bytes.size() < kHeaderBytes) {
      throw DataError(fmt::format("{}: torn llm.c file: shorter than its header of {} bytes",
                                  path.string(), kHeaderBytes));
    }
    std::memcpy(header.data(), bytes.data(), sizeof(header));
    const auto [magic, version, tokens] = header;
    const Flavour* flavour = flavour_of(magic);
    if (flavour == nullptr || flavour->version != version) {
      throw DataError(
          fmt::format("{}: llm.c file of magic {} and version {}, which is not known here",
                      path.string(), magic, version));
    }
    const auto count = static_cast<int64_t>(tokens);
    const auto needed =
        static_cast<int64_t>(kHeaderBytes) + count * static_cast<int>(flavour->width);
    if (count < 0 || needed != static_cast<int64_t>(bytes.size())) {
      throw DataError(
          fmt::format("{}: torn llm.c file: it holds {} bytes, but its header says {} tokens, {} "
                      "bytes; write it "
                      "again",
                      path.string(), bytes.size(), count, needed));
    }
    set_tokens(bytes.data() + kHeaderBytes, flavour->width, count);
    std::array<int32_t, 1> first{};
    if (count > 0) copy(0, first);
    document_token_ = first[0];
  }

  void sources(int64_t, std::span<SourceId> out) const override {
    std::fill(out.begin(), out.end(), kUnknownSource);
  }

  void document_starts(int64_t begin, int64_t count, std::vector<int32_t>& starts) const override {
    std::vector<int32_t> ids(static_cast<size_t>(count));
    copy(begin, ids);
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] == document_token_) starts.push_back(static_cast<int32_t>(i));
    }
  }

 private:
  MappedFile file_;
  int32_t document_token_ = 0;
};

}  // namespace

bool is_llmc(const fs::path& path) {
  if (fs::is_regular_file(path)) return has_magic(path);
  if (!fs::is_directory(path)) return false;
  const auto files = llmc_files(path);
  return !files.empty() && std::all_of(files.begin(), files.end(), has_magic);
}

std::vector<fs::path> llmc_files(const fs::path& path) {
  if (!fs::is_directory(path)) return {path};
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(path)) {
    if (entry.is_regular_file() && entry.path().extension() == kEnding)
      files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end(), [](const fs::path& a, const fs::path& b) {
    return natural_less(a.filename().string(), b.filename().string());
  });
  return files;
}

std::unique_ptr<TokenFile> open_llmc(const fs::path& path) {
  return std::make_unique<LlmcFile>(path);
}

}  // namespace gsa::data
