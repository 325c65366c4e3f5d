#include "tests/support/full_disk.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>

#include "core/check.h"

namespace itemloom::test {

std::string message_on_full_disk(int64_t bytes, const std::function<void()>& work) {
  std::array<int, 2> ends;
  CHECK(pipe(ends.data()) == 0, "no pipe can be made");
  const pid_t child = fork();
  CHECK(child >= 0, "no process can be made");
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    rlimit limit{};
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = static_cast<rlim_t>(bytes);
    setrlimit(RLIMIT_FSIZE, &limit);
    std::string message;
    try {
      work();
    } catch (const std::exception& error) {
      message = error.what();
    }
    const bool told = write(ends[1], message.data(), message.size()) == static_cast<ssize_t>(message.size());
    _exit(told ? 0 : 1);
  }
  close(ends[1]);
  std::string message;
  std::array<char, 4096> piece;
  for (ssize_t count; (count = read(ends[0], piece.data(), piece.size())) > 0;) {
    message.append(piece.data(), static_cast<size_t>(count));
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child process has crashed");
  return message;
}

}  // namespace itemloom::test
