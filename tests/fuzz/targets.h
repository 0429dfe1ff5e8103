// What reads files that others may have written, each as a function of bytes: a fuzz target. A
// target calls the reader as the program does, and lets through nothing but the errors that the
// reader's header promises. What comes back is held to what the rest of the program believes of it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace gsa::fuzz {

using Bytes = std::span<const uint8_t>;

struct Target {
  const char* name;  // and that of its folder in corpus/
  void (*run)(Bytes bytes);
};

// All targets.
const std::vector<Target>& targets();

void config(Bytes bytes);         // a configuration
void index(Bytes bytes);          // index.json of a folder of shards
void shard(Bytes bytes);          // a shard, its header's checksum made right
void documents(Bytes bytes);      // lines of JSON with text
void megatron(Bytes bytes);       // an index of Megatron-LM's format over some tokens
void metrics(Bytes bytes);        // lines of metrics.jsonl and events.jsonl
void manifest(Bytes bytes);       // manifest.json, its checksum made right
void rank_file(Bytes bytes);      // where the parts of rank-0000.h5 are, and the file
void products(Bytes bytes);       // a text of products' algorithms
void sentencepiece(Bytes bytes);  // a SentencePiece model's settings

}  // namespace gsa::fuzz
