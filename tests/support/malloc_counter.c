/* Counts the allocations of a process, in place of malloc and its kin: linked into a program, or preloaded (LD_PRELOAD) into
 * another. Preloaded, and told by MALLOC_COUNTER_DIRECTORY, it writes the count into DIRECTORY/PID: 8 bytes, kept up to date.
 * Frees are not counted. glibc only. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

extern void* __libc_malloc(size_t size);
extern void* __libc_calloc(size_t count, size_t size);
extern void* __libc_realloc(void* old, size_t size);
extern void* __libc_memalign(size_t alignment, size_t size);

static _Atomic uint64_t own_count;
static _Atomic uint64_t* all_threads = &own_count;
static _Thread_local uint64_t this_thread __attribute__((tls_model("initial-exec")));

/* Allocations so far, of the calling thread. */
uint64_t malloc_counter_of_this_thread(void) { return this_thread; }

static void Count(void) {
  ++this_thread;
  atomic_fetch_add_explicit(all_threads, 1, memory_order_relaxed);
}

void* malloc(size_t size) {
  Count();
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  Count();
  return __libc_calloc(count, size);
}
void* realloc(void* old, size_t size) {
  Count();
  return __libc_realloc(old, size);
}
void* memalign(size_t alignment, size_t size) {
  Count();
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void** out, size_t alignment, size_t size) {
  void* made = memalign(alignment, size);
  if (made == NULL) return ENOMEM;
  *out = made;
  return 0;
}

__attribute__((constructor)) static void Publish(void) {
  const char* directory = getenv("MALLOC_COUNTER_DIRECTORY");
  if (directory == NULL) return;
  char path[256];
  if (snprintf(path, sizeof path, "%s/%d", directory, (int)getpid()) >= (int)sizeof path) return;
  const int file = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (file < 0) return;
  void* page = MAP_FAILED;
  if (ftruncate(file, 4096) == 0) {
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  }
  close(file);
  if (page != MAP_FAILED) all_threads = page;
}
