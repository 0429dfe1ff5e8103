#include "trainer/cli/inspect_run.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <optional>
#include <vector>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/cli/commands.h"
#include "trainer/metrics/events.h"
#include "trainer/metrics/metrics.h"
#include "trainer/metrics/progress.h"
#include "trainer/run_folder.h"

namespace gsa {
namespace {

// Skipped steps and failures shown in full, the newest.
constexpr size_t most_shown = 5;

void print(const std::string& text) {
  std::fputs((text + "\n").c_str(), stdout);
}

std::string local_time(double seconds) {
  return fmt::format("{:%Y-%m-%d %H:%M:%S}", fmt::localtime(static_cast<std::time_t>(seconds)));
}

void show_steps(const std::vector<StepMetrics>& steps) {
  if (steps.empty()) {
    return;
  }
  const StepMetrics& last = steps.back();
  print(fmt::format("  {} steps, {} tokens, last loss {:.4f}", steps.size(),
                    human_count(double(last.tokens_seen)), last.loss));
  const StepMetrics* best = nullptr;
  for (const StepMetrics& step : steps) {
    if (step.validation && (best == nullptr || step.validation->loss < best->validation->loss)) {
      best = &step;
    }
  }
  if (best != nullptr) {
    print(fmt::format("  best validation loss {:.4f} at step {}", best->validation->loss,
                      best->step));
  }
  const auto skipped = std::count_if(steps.begin(), steps.end(),
                                     [](const StepMetrics& step) { return step.skipped; });
  if (skipped > 0) {
    print(fmt::format("  {} skipped {}", skipped, skipped == 1 ? "step" : "steps"));
  }
}

std::optional<HeartbeatState> heartbeat_of(const RunFolder& folder) {
  try {
    return read_heartbeat(folder.heartbeat());
  } catch (const std::runtime_error&) {
    return std::nullopt;
  }
}

// How the start before `next` ended; `next` is the next start, or the end of the events.
std::string end_of_start(const std::vector<RunEvent>& events, size_t begin, size_t next,
                         const std::optional<HeartbeatState>& heartbeat) {
  for (size_t i = next; i > begin; --i) {
    const RunEvent& event = events[i - 1];
    if (event.kind == "stop") {
      return fmt::format("stopped at step {}: {}, after {}", event.step, event.reason,
                         human_duration(event.time - events[begin].time));
    }
  }
  const bool newest = next == events.size();
  if (newest && heartbeat && heartbeat->pid == events[begin].pid) {
    return "still running if its heartbeat is fresh, else killed, or lost with its machine";
  }
  return "killed, or lost with its machine";
}

// How long the start before `next` took to its first step, if it came so far.
std::string first_step_of(const std::vector<RunEvent>& events, size_t begin, size_t next) {
  for (size_t i = begin; i < next; ++i) {
    if (events[i].kind == "first_step") {
      return fmt::format(", first step after {}", human_duration(events[i].seconds));
    }
  }
  return "";
}

void show_starts(const std::vector<RunEvent>& events,
                 const std::optional<HeartbeatState>& heartbeat) {
  std::vector<size_t> starts;
  for (size_t i = 0; i < events.size(); ++i) {
    if (events[i].kind == "start") {
      starts.push_back(i);
    }
  }
  print(fmt::format("  {} {}", starts.size(), starts.size() == 1 ? "start" : "starts"));
  for (size_t i = 0; i < starts.size(); ++i) {
    const RunEvent& start = events[starts[i]];
    const size_t next = i + 1 < starts.size() ? starts[i + 1] : events.size();
    print(fmt::format("    {} at step {}, {} {} from {}{}: {}", local_time(start.time), start.step,
                      start.ranks, start.ranks == 1 ? "rank" : "ranks", start.host,
                      first_step_of(events, starts[i], next),
                      end_of_start(events, starts[i], next, heartbeat)));
  }
}

// The newest events of a kind, and how many there are.
void show_newest(const std::vector<RunEvent>& events, const std::string& kind,
                 const std::string& title) {
  std::vector<const RunEvent*> found;
  for (const RunEvent& event : events) {
    if (event.kind == kind) {
      found.push_back(&event);
    }
  }
  if (found.empty()) {
    return;
  }
  print(fmt::format("  {} {}{}", found.size(), title,
                    found.size() > most_shown ? ", the last of them:" : ":"));
  const size_t first = found.size() - std::min(found.size(), most_shown);
  for (size_t i = first; i < found.size(); ++i) {
    print(fmt::format("    {} at step {}: {}", local_time(found[i]->time), found[i]->step,
                      found[i]->reason));
  }
}

// What writing a checkpoint took, as far as the events tell.
std::string cost_of(const std::filesystem::path& checkpoint, const std::vector<RunEvent>& events) {
  constexpr double bytes_per_gib = 1024.0 * 1024.0 * 1024.0;
  for (size_t i = events.size(); i-- > 0;) {
    const RunEvent& event = events[i];
    if (event.kind == "checkpoint" && event.bytes > 0 &&
        checkpoint.filename() == checkpoint_name(event.step)) {
      return fmt::format(": {:.2f} GiB in {}, for {:.3f} s of which training stood still",
                         double(event.bytes) / bytes_per_gib, human_duration(event.seconds),
                         event.stalled);
    }
  }
  return "";
}

}  // namespace

int inspect_run(const std::filesystem::path& run) {
  const RunFolder folder(run);
  print("run " + run.string());
  show_steps(read_metrics(folder.metrics()));
  const std::vector<RunEvent> events = read_events(folder.events());
  const std::optional<HeartbeatState> heartbeat = heartbeat_of(folder);
  if (!events.empty()) {
    show_starts(events, heartbeat);
    show_newest(events, "skip", "times a step was skipped");
    show_newest(events, "checkpoint_failed", "checkpoints could not be written");
  }
  for (const std::filesystem::path& checkpoint : list_checkpoints(folder.checkpoints())) {
    print("  checkpoint " + checkpoint.filename().string() + cost_of(checkpoint, events));
  }
  if (heartbeat) {
    print(fmt::format("  state {} at step {}, {} ago (process {} on {})", heartbeat->state,
                      heartbeat->step, human_duration(unix_time() - heartbeat->time),
                      heartbeat->pid, heartbeat->host));
  }
  return exit_done;
}

}  // namespace gsa
