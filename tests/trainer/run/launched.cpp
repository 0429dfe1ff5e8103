#include "tests/trainer/run/launched.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <thread>

namespace gsa::test {
namespace {

namespace fs = std::filesystem;

// Between two looks at another process.
constexpr std::chrono::milliseconds between_looks{1};

// For mpirun's end after that of its ranks.
constexpr std::chrono::seconds patience_with_mpirun{60};

// The variable by which Open MPI tells a process its rank.
constexpr const char* rank_variable = "OMPI_COMM_WORLD_RANK=";

int exit_code_of(int status) {
  constexpr int signal_base = 128;
  return WIFEXITED(status) ? WEXITSTATUS(status) : signal_base + WTERMSIG(status);
}

// Whether a process runs: one that has ended and that nobody has taken note of does not.
bool is_alive(pid_t pid) {
  const std::string status = content_of(fmt::format("/proc/{}/stat", pid));
  const size_t name_end = status.rfind(')');
  return name_end != std::string::npos && status.size() > name_end + 2 &&
         status[name_end + 2] != 'Z' && status[name_end + 2] != 'X';
}

// The rank of a process; -1 if it is none.
int rank_of(pid_t pid) {
  const std::string environment = content_of(fmt::format("/proc/{}/environ", pid));
  const std::string wanted = std::string(1, '\0') + rank_variable;
  const size_t at = (std::string(1, '\0') + environment).find(wanted);
  return at == std::string::npos ? -1 : std::atoi(environment.c_str() + at + wanted.size() - 1);
}

}  // namespace

std::string content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

Launched::Launched(const Workplace& place, int ranks, const std::string& arguments,
                   const std::string& log, const std::string& launcher)
    : log_(place.path() / log), with_mpi_(ranks > 0) {
  const std::string start =
      with_mpi_ ? fmt::format("mpirun --oversubscribe --bind-to none -n {} {}", ranks, launcher)
                : launcher;
  // What Open MPI keeps of its own goes into the workplace: killed, it leaves it behind.
  const std::string command = fmt::format(
      "cd '{0}'; export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
      "OMPI_MCA_orte_tmpdir_base='{0}' OMPI_MCA_btl_vader_backing_directory='{0}'; exec {1} "
      "\"$GSA_BINARY\" {2} >'{3}' 2>&1",
      place.path().string(), start, arguments, log_.string());
  pid_ = fork();
  if (pid_ < 0) {
    throw std::runtime_error("cannot start another process");
  }
  if (pid_ == 0) {
    execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    _exit(127);
  }
}

Launched::~Launched() {
  if (running()) {
    kill_all();
  }
}

std::vector<pid_t> Launched::ranks() const {
  std::map<int, pid_t> found;
  std::ifstream children(fmt::format("/proc/{0}/task/{0}/children", pid_));
  for (pid_t child = 0; children >> child;) {
    const int rank = rank_of(child);
    if (rank >= 0 && is_alive(child)) {
      found[rank] = child;
    }
  }
  std::vector<pid_t> pids;
  for (const auto& [rank, pid] : found) {
    pids.push_back(pid);
  }
  return pids;
}

bool Launched::running() {
  if (code_ >= 0) {
    return false;
  }
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) == 0) {
    return true;
  }
  code_ = exit_code_of(status);
  return false;
}

bool Launched::wait_until(const std::function<bool()>& happened) {
  while (!happened()) {
    if (!running()) {
      return happened();
    }
    std::this_thread::sleep_for(between_looks);
  }
  return true;
}

int Launched::wait() {
  auto last_seen = std::chrono::steady_clock::now();
  while (running()) {
    const auto now = std::chrono::steady_clock::now();
    if (!with_mpi_ || !ranks().empty()) {
      last_seen = now;
    } else if (now - last_seen > patience_with_mpirun) {
      kill(pid_, SIGKILL);
    }
    std::this_thread::sleep_for(between_looks);
  }
  return code_;
}

void Launched::kill_all() {
  const std::vector<pid_t> pids = ranks();
  for (const pid_t rank : pids) {
    kill(rank, SIGKILL);
  }
  if (running()) {
    kill(pid_, SIGKILL);
  }
  wait();
  for (const pid_t rank : pids) {
    while (is_alive(rank)) {
      std::this_thread::sleep_for(between_looks);
    }
  }
}

std::string Launched::output() const {
  return content_of(log_);
}

}  // namespace gsa::test
