/* Shifts the wall clock by the number of seconds in a file; the monotonic clock is unchanged.

   Preloaded into every process of a deployment. (libfaketime does the same, but when it leaves the
   monotonic clock alone, Python's sleep fails with EINVAL.) The file holds one 64-bit integer and is
   mapped, so that all processes see a change at the same moment and reading it costs nothing. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *offset;
static int (*true_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void open_offset(void) {
  true_clock = dlsym(RTLD_NEXT, "clock_gettime");
  const char *name = getenv("WALL_CLOCK_OFFSET");
  int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *seen = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
  if (seen != MAP_FAILED) offset = seen;
  close(file);
}

int clock_gettime(clockid_t which, struct timespec *now) {
  if (!true_clock) true_clock = dlsym(RTLD_NEXT, "clock_gettime");
  int failed = true_clock(which, now);
  if (!failed && offset && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
    now->tv_sec += *offset;
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec exact;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *also) {
  struct timespec exact;
  if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
  if (also) *also = exact.tv_sec;
  return exact.tv_sec;
}
