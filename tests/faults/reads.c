/* Counts how a process reads the files below a folder, and makes one of those calls fail.

   tests/faults/reading.py compiles this text into a library and starts Python anew with it before the C library
   (LD_PRELOAD). So Python, GDAL, Pillow, pandas, safetensors and torch are met alike, whatever they are written in.
   It does nothing until `reads_watch` or `reads_fail` is called, which a forked process does on itself through ctypes.

   Calls are told apart by what they do (the letters below) and counted for each path, from 0. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 'o', READ = 'r', STAT = 's', MMAP = 'm', OPEN_FOLDER = 'd', LIST = 'l' };
enum { GO_ON = 0, SHORT = -1, CHANGE = -2 }; /* what a fault is, beside the numbers of errno */

static char root[4096], victim[4096], change_from[4096], change_to[4096];
static int log_handle = -1, fault, stays, done;
static char kind_to_fail;
static long at, seen, change_size;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Write one line, kind and path, to `handle` for each call on what lies below `folder`. */
void reads_watch(const char *folder, int handle) {
  snprintf(root, sizeof root, "%s", folder);
  log_handle = handle;
}

/* Fail the `number`-th call of `kind` on `path` with the errno `error`, or shorten it (SHORT); with `forever` every
   later call on that path fails too, whatever its kind. */
void reads_fail(const char *folder, const char *path, char kind, long number, int error, int forever) {
  snprintf(victim, sizeof victim, "%s", path);
  snprintf(root, sizeof root, "%s", folder);
  kind_to_fail = kind, at = number, fault = error, stays = forever;
}

/* Just before the `number`-th call of `kind` on `path`, put the file `from` in the place of `to`; with no `from`
   cut `to` to `size` bytes where it lies, or remove it where `size` is negative. */
void reads_change(const char *folder, const char *path, char kind, long number, const char *from, const char *to,
                  long size) {
  snprintf(change_from, sizeof change_from, "%s", from);
  snprintf(change_to, sizeof change_to, "%s", to);
  change_size = size;
  reads_fail(folder, path, kind, number, CHANGE, 0);
}

/* Return whether the call to fail came. */
int reads_done(void) { return done; }

static void change(void) {
  if (change_from[0]) syscall(SYS_renameat, AT_FDCWD, change_from, AT_FDCWD, change_to);
  else if (change_size >= 0) syscall(SYS_truncate, change_to, change_size);
  else syscall(SYS_unlinkat, AT_FDCWD, change_to, 0);
}

/* Note a call on an absolute path, and return what shall become of it. */
static int judge(char kind, const char *path) {
  size_t length = strlen(root);
  if (!length || strncmp(path, root, length) || (path[length] && path[length] != '/')) return GO_ON;
  int before = errno, verdict = GO_ON;
  pthread_mutex_lock(&lock);
  if (log_handle >= 0) {
    char line[4200];
    int size = snprintf(line, sizeof line, "%c%s\n", kind, path + length);
    if (syscall(SYS_write, log_handle, line, (size_t)size) < 0) abort();
  } else if (!strcmp(path, victim)) {
    if (done && stays) verdict = fault;
    else if (kind == kind_to_fail && seen++ == at) done = 1, verdict = fault;
    if (verdict == CHANGE) change(), verdict = GO_ON;
  }
  pthread_mutex_unlock(&lock);
  errno = before;
  return verdict;
}

/* Make an absolute path without "." and ".." of one that is relative to a folder's handle. */
static const char *whole(int folder, const char *path, char *room) {
  char joined[8192], *out = room;
  if (path[0] == '/') snprintf(joined, sizeof joined, "%s", path);
  else {
    char base[4096] = "";
    if (folder == AT_FDCWD) syscall(SYS_getcwd, base, sizeof base);
    else {
      char link[64];
      snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
      ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, base, sizeof base - 1);
      base[size < 0 ? 0 : size] = 0;
    }
    snprintf(joined, sizeof joined, "%s/%s", base, path);
  }
  for (char *rest, *part = strtok_r(joined, "/", &rest); part; part = strtok_r(NULL, "/", &rest)) {
    if (!strcmp(part, ".")) continue;
    if (!strcmp(part, "..")) {
      while (out > room && *--out != '/') {}
      continue;
    }
    size_t size = strlen(part);
    if (out + size + 2 > room + 4096) break;
    *out++ = '/', memcpy(out, part, size), out += size;
  }
  *out = 0;
  return room;
}

static int judge_at(char kind, int folder, const char *path) {
  char room[4100];
  return root[0] && path ? judge(kind, whole(folder, path, room)) : GO_ON;
}

static int judge_handle(char kind, int handle) {
  char link[64], path[4096];
  if (!root[0] || handle < 0) return GO_ON;
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
  if (size <= 0) return GO_ON;
  path[size] = 0;
  return judge(kind, path);
}

#define REAL(name) ((__typeof__(&name))real(&real_##name, #name))
static void *real(void **slot, const char *name) { return *slot ? *slot : (*slot = dlsym(RTLD_NEXT, name)); }
#define SLOT(name) static void *real_##name
#define FAIL(verdict, result)                                                      \
  do {                                                                             \
    int error = (verdict);                                                         \
    if (error > 0) return errno = error, (result);                                 \
  } while (0)
#define LESS(size) ((size) > 1 ? (size) / 2 : (size))

/* Opening. What is opened for writing alone, or made, is no reading. */
static int reads(int flags) { return (flags & O_ACCMODE) != O_WRONLY && !(flags & (O_CREAT | O_PATH)); }
#define OPENER(name, folder, parameters, call)                                     \
  int name parameters;                                                             \
  SLOT(name);                                                                      \
  int name parameters {                                                            \
    mode_t mode = 0;                                                               \
    if (flags & (O_CREAT | O_TMPFILE)) {                                           \
      va_list rest;                                                                \
      va_start(rest, flags), mode = va_arg(rest, mode_t), va_end(rest);            \
    }                                                                              \
    if (reads(flags)) FAIL(judge_at(OPEN, folder, path), -1);                      \
    return REAL(name) call;                                                        \
  }
OPENER(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENER(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENER(openat, folder, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
OPENER(openat64, folder, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
#define CHECKED_OPENER(name, folder, parameters, call)                             \
  int name parameters;                                                             \
  SLOT(name);                                                                      \
  int name parameters {                                                            \
    if (reads(flags)) FAIL(judge_at(OPEN, folder, path), -1);                      \
    return REAL(name) call;                                                        \
  }
CHECKED_OPENER(__open_2, AT_FDCWD, (const char *path, int flags), (path, flags))
CHECKED_OPENER(__open64_2, AT_FDCWD, (const char *path, int flags), (path, flags))
CHECKED_OPENER(__openat_2, folder, (int folder, const char *path, int flags), (folder, path, flags))
CHECKED_OPENER(__openat64_2, folder, (int folder, const char *path, int flags), (folder, path, flags))
#define STREAM(name)                                                               \
  SLOT(name);                                                                      \
  FILE *name(const char *path, const char *mode) {                                 \
    if (mode[0] == 'r') FAIL(judge_at(OPEN, AT_FDCWD, path), NULL);                \
    return REAL(name)(path, mode);                                                 \
  }
STREAM(fopen)
STREAM(fopen64)

/* Reading. */
#define READER(name, parameters, short_call)                                       \
  ssize_t name parameters;                                                         \
  SLOT(name);                                                                      \
  ssize_t name parameters {                                                        \
    int verdict = judge_handle(READ, handle);                                      \
    FAIL(verdict, -1);                                                             \
    if (verdict == SHORT) size = LESS(size);                                       \
    return REAL(name) short_call;                                                  \
  }
READER(read, (int handle, void *data, size_t size), (handle, data, size))
READER(pread, (int handle, void *data, size_t size, off_t where), (handle, data, size, where))
READER(pread64, (int handle, void *data, size_t size, off64_t where), (handle, data, size, where))
READER(__read_chk, (int handle, void *data, size_t size, size_t room), (handle, data, size, room))
READER(__pread_chk, (int handle, void *data, size_t size, off_t where, size_t room), (handle, data, size, where, room))
READER(__pread64_chk, (int handle, void *data, size_t size, off64_t where, size_t room),
       (handle, data, size, where, room))
READER(readv, (int handle, const struct iovec *parts, int size), (handle, parts, size))
#define COPIER(name, type)                                                         \
  ssize_t name(int out, int handle, type *where, size_t size);                     \
  SLOT(name);                                                                      \
  ssize_t name(int out, int handle, type *where, size_t size) {                    \
    int verdict = judge_handle(READ, handle);                                      \
    FAIL(verdict, -1);                                                             \
    return REAL(name)(out, handle, where, verdict == SHORT ? LESS(size) : size);   \
  }
COPIER(sendfile, off_t)
COPIER(sendfile64, off64_t)
SLOT(fread);
size_t fread(void *data, size_t size, size_t count, FILE *file) { /* which is never short but at the end */
  FAIL(judge_handle(READ, file ? fileno(file) : -1), 0);
  return REAL(fread)(data, size, count, file);
}
size_t __fread_chk(void *data, size_t room, size_t size, size_t count, FILE *file);
SLOT(__fread_chk);
size_t __fread_chk(void *data, size_t room, size_t size, size_t count, FILE *file) {
  FAIL(judge_handle(READ, file ? fileno(file) : -1), 0);
  return REAL(__fread_chk)(data, room, size, count, file);
}
#define MAPPER(name, type)                                                         \
  SLOT(name);                                                                      \
  void *name(void *wanted, size_t size, int access, int flags, int handle, type where) {           \
    if (!(flags & MAP_ANONYMOUS)) FAIL(judge_handle(MMAP, handle), MAP_FAILED);    \
    return REAL(name)(wanted, size, access, flags, handle, where);                 \
  }
MAPPER(mmap, off_t)
MAPPER(mmap64, off64_t)

/* Asking for size and times. */
#define ASKER(name, parameters, verdict, call)                                     \
  int name parameters;                                                             \
  SLOT(name);                                                                      \
  int name parameters {                                                            \
    FAIL(verdict, -1);                                                             \
    return REAL(name) call;                                                        \
  }
#define BY_PATH judge_at(STAT, AT_FDCWD, path)
static __attribute__((noinline)) int judge_entry(int folder, const char *path) { /* without a path it is the handle's */
  return path && path[0] ? judge_at(STAT, folder, path) : judge_handle(STAT, folder);
}
ASKER(stat, (const char *path, struct stat *room), BY_PATH, (path, room))
ASKER(stat64, (const char *path, struct stat64 *room), BY_PATH, (path, room))
ASKER(lstat, (const char *path, struct stat *room), BY_PATH, (path, room))
ASKER(lstat64, (const char *path, struct stat64 *room), BY_PATH, (path, room))
ASKER(access, (const char *path, int how), BY_PATH, (path, how))
ASKER(__xstat, (int version, const char *path, struct stat *room), BY_PATH, (version, path, room))
ASKER(__xstat64, (int version, const char *path, struct stat64 *room), BY_PATH, (version, path, room))
ASKER(__lxstat, (int version, const char *path, struct stat *room), BY_PATH, (version, path, room))
ASKER(__lxstat64, (int version, const char *path, struct stat64 *room), BY_PATH, (version, path, room))
ASKER(fstat, (int handle, struct stat *room), judge_handle(STAT, handle), (handle, room))
ASKER(fstat64, (int handle, struct stat64 *room), judge_handle(STAT, handle), (handle, room))
ASKER(__fxstat, (int version, int handle, struct stat *room), judge_handle(STAT, handle), (version, handle, room))
ASKER(__fxstat64, (int version, int handle, struct stat64 *room), judge_handle(STAT, handle), (version, handle, room))
#define BY_FOLDER judge_entry(folder, path)
ASKER(fstatat, (int folder, const char *path, struct stat *room, int flags), BY_FOLDER, (folder, path, room, flags))
ASKER(fstatat64, (int folder, const char *path, struct stat64 *room, int flags), BY_FOLDER, (folder, path, room, flags))
ASKER(statx, (int folder, const char *path, int flags, unsigned mask, struct statx *room), BY_FOLDER,
      (folder, path, flags, mask, room))

/* Listing a folder. */
SLOT(opendir); /* fdopendir is met by openat */
DIR *opendir(const char *path) {
  FAIL(judge_at(OPEN_FOLDER, AT_FDCWD, path), NULL);
  return REAL(opendir)(path);
}
#define LISTER(name, type)                                                         \
  SLOT(name);                                                                      \
  type *name(DIR *folder) {                                                        \
    FAIL(judge_handle(LIST, dirfd(folder)), NULL);                                 \
    return REAL(name)(folder);                                                     \
  }
LISTER(readdir, struct dirent)
LISTER(readdir64, struct dirent64)
