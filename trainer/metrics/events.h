// What happened to a run, from its first start to its end, in events.jsonl: a line an event, over
// all starts (metrics.jsonl, by contrast, drops the steps that a resumed run does again).
//
//   {"time":1795400000.1,"event":"start","step":0,"ranks":8,"host":"node1","pid":4711}
//   {"time":1795400012.3,"event":"first_step","step":1,"seconds":12.4}
//   {"time":1795400100.2,"event":"checkpoint","step":100,"seconds":3.2,"stalled":0.01,"bytes":16524}
//   {"time":1795400150.7,"event":"skip","step":123,"loss":11.2,"reason":"..."}
//   {"time":1795400160.1,"event":"stop","step":130,"reason":"done"}
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "trainer/metrics/line_file.h"

namespace gsa {

// `kind` is one of start, first_step, checkpoint, checkpoint_failed, skip, stop.
struct RunEvent {
  double time = 0;  // seconds since 1970
  std::string kind;
  int64_t step = 0;    // that the run had behind it
  std::string reason;  // of a skip, a failure, a stop; the checkpoint that a start goes on from
  // That a checkpoint took, from its beginning until it was whole; of a start's first step, from
  // the beginning of the process to the step's end.
  double seconds = 0;
  double stalled = 0;  // that the run did nothing else for the checkpoint
  int64_t bytes = 0;   // in the checkpoint's files
  int64_t ranks = 0;   // of a start, with the host and process of rank 0
  std::string host;
  int64_t pid = 0;
};

std::string to_json_line(const RunEvent& event);
// Throws std::runtime_error naming what is wrong.
RunEvent event_from_json_line(const std::string& line);

// Appends to events.jsonl, with the present time.
class EventLog {
 public:
  // Throws std::system_error.
  explicit EventLog(std::filesystem::path path) : file_(std::move(path)) {}
  // Throws std::system_error; the event is kept for the next time (see LineFile).
  void write(RunEvent event);

 private:
  LineFile file_;
};

// Every event of the file, in order; none if there is no file. What is no whole line is left out.
std::vector<RunEvent> read_events(const std::filesystem::path& path);

// heartbeat.json: where a run is, for those who watch from outside.
//
//   {"time":1795400000.1,"step":123,"state":"training","host":"node1","pid":4711}
//
// States: starting, training, validating, saving (the last checkpoint), done, stopped, failed. The
// file is replaced in one move, when the state changes and else at most every few seconds. A
// process that was killed leaves its last one, which grows old.
class Heartbeat {
 public:
  explicit Heartbeat(std::filesystem::path path) : path_(std::move(path)) {}

  // Never fails: a disk that is full must not stop a run here.
  void beat(const std::string& state, int64_t step) noexcept;

 private:
  std::filesystem::path path_;
  std::string last_state_;
  double last_time_ = 0;
};

struct HeartbeatState {
  double time = 0;
  int64_t step = 0;
  std::string state;
  std::string host;
  int64_t pid = 0;
};
// Throws std::runtime_error if the file cannot be read or is none.
HeartbeatState read_heartbeat(const std::filesystem::path& path);

// Seconds since 1970, and this machine's name.
double unix_time();
std::string host_name();

}  // namespace gsa
