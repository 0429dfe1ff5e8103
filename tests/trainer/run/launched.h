// A run of the program in the background, to be watched, disturbed and killed.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/trainer/run/program.h"

namespace gsa::test {

class Launched {
 public:
  // Starts `gsa ARGUMENTS` in the workplace, under mpirun unless `ranks` is 0. stdout and stderr go
  // to the file `log` of the workplace. `launcher`: options of mpirun, or without it a program that
  // starts the program.
  Launched(const Workplace& place, int ranks, const std::string& arguments, const std::string& log,
           const std::string& launcher = "");
  // Kills what is left of it.
  ~Launched();
  Launched(const Launched&) = delete;
  Launched& operator=(const Launched&) = delete;

  pid_t pid() const { return pid_; }  // mpirun's, or the program's
  // The ranks' processes that run, in rank order; less than were asked for while they start.
  std::vector<pid_t> ranks() const;

  bool running();
  // Waits until `happened` or until the program has ended; says whether it happened.
  bool wait_until(const std::function<bool()>& happened);
  // Waits for the end: the exit code, or 128 and the signal's number. An mpirun that outlives its
  // ranks (Open MPI 4 can lock up on its way out when a rank dies while it connects) is killed, as
  // scripts/launch.sh does it.
  int wait();
  // SIGKILL to every rank and to mpirun, as when the power goes; returns when all are gone.
  void kill_all();

  std::string output() const;
  bool says(const std::string& text) const { return output().find(text) != std::string::npos; }

 private:
  std::filesystem::path log_;
  pid_t pid_ = -1;
  int code_ = -1;  // once it has ended
  bool with_mpi_ = false;
};

// What a file holds; empty if there is none.
std::string content_of(const std::filesystem::path& path);

}  // namespace gsa::test
