#include "trainer/model/mixer.h"

#include <functional>

#include "trainer/config/error.h"
#include "trainer/model/gsa_mixer.h"

namespace gsa {
namespace {

template <typename Mixer>
std::unique_ptr<TokenMixer> make(const ModelConfig& config, int layer, const std::string& prefix,
                                 ParameterStore& parameters) {
  return std::make_unique<Mixer>(config, layer, prefix, parameters);
}

struct Entry {
  const char* name;
  std::unique_ptr<TokenMixer> (*make)(const ModelConfig&, int, const std::string&, ParameterStore&);
};

constexpr Entry registry[] = {
    {"gsa", make<GsaMixer>},
};

}  // namespace

std::unique_ptr<TokenMixer> make_mixer(const ModelConfig& config, int layer,
                                       const std::string& prefix, ParameterStore& parameters) {
  std::string known;
  for (const Entry& entry : registry) {
    if (config.mixer == entry.name) {
      return entry.make(config, layer, prefix, parameters);
    }
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw ConfigError("model.mixer: there is no mixer '" + config.mixer + "'; known: " + known);
}

}  // namespace gsa
