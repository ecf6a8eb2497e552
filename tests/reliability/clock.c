/* Shifts the wall clock by the number of seconds in a file; the monotonic clock is unchanged. Makes
   every flush to the disk take longer, as on a slow disk.

   Preloaded into every process of a deployment. (libfaketime does the same, but when it leaves the
   monotonic clock alone, Python's sleep fails with EINVAL.) The file is mapped, so that all processes
   see a change at the same moment and reading it costs nothing. It holds three 64-bit integers:
   seconds for all processes, further seconds for workers, as if on a host of their own, and the
   milliseconds of a flush. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *offset;
static int is_worker;
static int (*true_clock)(clockid_t, struct timespec *);

/* Whether the process was started with the argument `worker`. */
static int find_worker(void) {
  char words[4096];
  int file = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  ssize_t length = read(file, words, sizeof words - 1);
  close(file);
  for (ssize_t at = 0; at < length; at += strlen(words + at) + 1) {
    words[length] = 0;
    if (!strcmp(words + at, "worker") || !strncmp(words + at, "workers.", 8)) return 1;
  }
  return 0;
}

__attribute__((constructor)) static void open_offset(void) {
  true_clock = dlsym(RTLD_NEXT, "clock_gettime");
  is_worker = find_worker();
  const char *name = getenv("WALL_CLOCK_OFFSET");
  int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *seen = mmap(NULL, 3 * sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
  if (seen != MAP_FAILED) offset = seen;
  close(file);
}

int clock_gettime(clockid_t which, struct timespec *now) {
  if (!true_clock) true_clock = dlsym(RTLD_NEXT, "clock_gettime");
  int failed = true_clock(which, now);
  if (!failed && offset && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
    now->tv_sec += offset[0] + (is_worker ? offset[1] : 0);
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

static void wait_for_disk(void) {
  if (offset && offset[2] > 0) usleep((useconds_t)offset[2] * 1000);
}

int fsync(int file) {
  static int (*true_fsync)(int);
  if (!true_fsync) true_fsync = dlsym(RTLD_NEXT, "fsync");
  wait_for_disk();
  return true_fsync(file);
}

int fdatasync(int file) {
  static int (*true_fdatasync)(int);
  if (!true_fdatasync) true_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
  wait_for_disk();
  return true_fdatasync(file);
}
