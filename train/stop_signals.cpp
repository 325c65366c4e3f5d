#include "train/stop_signals.h"

#include <atomic>
#include <csignal>

namespace itemloom {
namespace {

std::atomic<bool> signalled{false};

}  // namespace

void stop_at_signals() {
  signalled = false;
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) {
    struct sigaction action {};
    action.sa_handler = [](int) { signalled = true; };
    action.sa_flags = SA_RESTART | (number == SIGINT ? static_cast<int>(SA_RESETHAND) : 0);
    sigaction(number, &action, nullptr);
  }
}

bool asked_to_stop() {
  return signalled;
}

}  // namespace itemloom
