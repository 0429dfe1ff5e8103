#include "tests/data/support.h"

#include <fmt/format.h>
#include <sentencepiece_trainer.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "data/byte_tokenizer.h"
#include "data/index.h"
#include "data/json_text.h"
#include "data/shard_writer.h"

namespace gsa::data::test {

namespace fs = std::filesystem;

TempFolder::TempFolder() {
  std::string name = (fs::temp_directory_path() / "gsa-data-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
  path_ = name;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::vector<Document> random_documents(std::mt19937_64& random, size_t count, size_t max_words) {
  constexpr std::array<std::string_view, 24> kWords = {
      "the",     "slot",    "attention", "Gate",  "memory", "x_1",   "3.14",  "hello,",
      "world",   "a",       "of",        "query", "key.",   "don't", "naïve", "Größe",
      "données", "русский", "語言",      "🙂",  "zzz",    "<s>",   "\"q\"", "back\\slash"};
  constexpr std::array<std::string_view, 8> kGaps = {" ", " ", " ", " ", "\n", "  ", "\t", "\n\n"};
  std::vector<Document> documents(count);
  for (auto& document : documents) {
    const size_t words = 1 + random() % max_words;
    for (size_t w = 0; w < words; ++w) {
      if (w > 0) document.text += kGaps[random() % kGaps.size()];
      document.text += kWords[random() % kWords.size()];
    }
    document.source = kSourceNames[1 + random() % (kSourceCount - 1)];
  }
  return documents;
}

std::string to_jsonl(const std::vector<Document>& documents) {
  std::string lines;
  for (const auto& document : documents) {
    lines += "{\"text\": " + json_quote(document.text);
    if (!document.source.empty()) {
      lines +=
          fmt::format(", \"meta\": {{\"redpajama_set_name\": {}}}", json_quote(document.source));
    }
    lines += "}\n";
  }
  return lines;
}

std::string zstd(std::string_view bytes) {
  std::string packed(ZSTD_compressBound(bytes.size()), '\0');
  constexpr int kLevel = 3;
  const size_t size =
      ZSTD_compress(packed.data(), packed.size(), bytes.data(), bytes.size(), kLevel);
  if (ZSTD_isError(size)) throw std::runtime_error(ZSTD_getErrorName(size));
  packed.resize(size);
  return packed;
}

void write_bytes(const fs::path& path, std::string_view bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file.flush()) throw std::runtime_error("cannot write " + path.string());
}

void write_input(const fs::path& path, std::string_view bytes) {
  if (path.extension() == ".zst") {
    write_bytes(path, zstd(bytes));
  } else if (path.extension() == ".gz") {
    fs::create_directories(path.parent_path());
    gzFile file = ::gzopen(path.c_str(), "wb");
    if (file == nullptr) throw std::runtime_error("cannot write " + path.string());
    ::gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size()));
    ::gzclose(file);
  } else {
    write_bytes(path, bytes);
  }
}

std::string read_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::pair<std::string, std::string>> contents_of(const fs::path& folder) {
  std::vector<std::pair<std::string, std::string>> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file() || entry.path().extension() == ".tmp") continue;
    files.emplace_back(entry.path().lexically_relative(folder).string(), read_bytes(entry.path()));
  }
  std::sort(files.begin(), files.end());
  return files;
}

void expect_parts(const std::string& message, const std::vector<std::string>& parts) {
  for (const auto& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' is not in: " << message;
  }
}

fs::path train_model(const TempFolder& folder, const ModelKind& kind) {
  constexpr uint64_t kSeed = 17;
  constexpr size_t kDocuments = 300;
  constexpr size_t kWords = 40;
  std::mt19937_64 random(kSeed);
  std::string text;
  for (auto& document : random_documents(random, kDocuments, kWords)) text += document.text + "\n";
  const auto input = folder / "model-text.txt";
  write_bytes(input, text);
  const auto prefix =
      folder / fmt::format("{}-{}-{}", kind.type, kind.normalization, kind.byte_fallback);
  const auto status = sentencepiece::SentencePieceTrainer::Train(fmt::format(
      "--input={} --model_prefix={} --model_type={} --vocab_size=400 --hard_vocab_limit=false "
      "--normalization_rule_name={} --remove_extra_whitespaces={} --byte_fallback={} --eos_id={} "
      "--num_threads=1 --minloglevel=2 "
      "--user_defined_symbols={} --split_digits=true --allow_whitespace_only_pieces=true",
      input.string(), prefix.string(), kind.type, kind.normalization, kind.remove_extra_whitespaces,
      kind.byte_fallback, kind.end_of_sequence ? 2 : -1, kind.user_defined));
  if (!status.ok()) throw std::runtime_error(status.ToString());
  return prefix.string() + ".model";
}

void make_shards(const fs::path& folder, const std::vector<std::vector<Document>>& shards) {
  fs::create_directories(folder);
  const auto tokenizer = make_byte_tokenizer();
  std::vector<std::string> files;
  for (const auto& documents : shards) {
    files.push_back(fmt::format("shard-{:06}.gsa", files.size()));
    ShardWriter writer(folder / files.back(), tokenizer->info());
    for (const auto& document : documents) {
      std::vector<int32_t> ids;
      tokenizer->encode(document.text, ids);
      ids.push_back(tokenizer->end_of_sequence());
      PackedTokens packed(width_for(tokenizer->vocabulary_size()));
      packed.append(ids);
      const auto count = static_cast<int64_t>(ids.size());
      const SourceId source = source_of_name(document.source);
      writer.append(packed, {&count, 1}, {&source, 1});
    }
    writer.finish(R"({"inputs": [], "problems": {"counts": {}, "named": []}})");
  }
  write_index(folder, make_index(folder, files));
}

}  // namespace gsa::data::test
