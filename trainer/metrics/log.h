// Messages to people, on stderr. Each call is one line; compose it with fmt::format.
#pragma once

#include <string_view>

namespace gsa {

// Sets what is shown from now on: messages of `level` (debug | info | warning | error) or worse.
// With more than one rank, lines say whose they are, and ranks other than 0 show errors only (at
// level debug: everything). Before this is called, messages are shown from info up, without a rank.
// Throws std::invalid_argument for another level.
void setup_logging(std::string_view level, int rank = 0, int ranks = 1);

void log_debug(std::string_view message);
void log_info(std::string_view message);
void log_warning(std::string_view message);
void log_error(std::string_view message);

}  // namespace gsa
