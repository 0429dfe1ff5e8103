// What every test of a refused configuration asks: the whole message.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "trainer/config/config.h"
#include "trainer/config/error.h"

namespace gsa {

// The message with which `text` (called x.yaml) and `overrides` are refused; empty if they are not.
inline std::string refusal(const std::string& text,
                           const std::vector<std::string>& overrides = {}) {
  try {
    parse_config(text, "x.yaml", overrides);
    return "";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

}  // namespace gsa
