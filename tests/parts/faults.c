/* Let the system refuse one call on files of one folder: the FAULT_AT-th below FAULT_PATH, with the number FAULT_ERRNO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>
#include <dirent.h>

static long calls;

static int refused(const char *path, const char *name) {
    const char *below = getenv("FAULT_PATH"), *at = getenv("FAULT_AT");
    if (!below || !at || !path || strncmp(path, below, strlen(below))) return 0;
    long number = __sync_add_and_fetch(&calls, 1);
    const char *log = getenv("FAULT_LOG");
    if (number != atol(at)) {
        if (!log || atol(at) != 0) return 0;
        /* counting: one byte a call */
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
        ssize_t (*put)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
        int file = real(log, O_WRONLY | O_APPEND | O_CREAT, 0644);
        if (file >= 0) { (void)!put(file, name, 1); close(file); }
        return 0;
    }
    errno = atoi(getenv("FAULT_ERRNO"));
    return 1;
}

static int refused_fd(int fd, const char *name) {
    char link[64], path[4096];
    if (!getenv("FAULT_PATH")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return refused(path, name);
}

#define REAL(type, name, ...) type (*real)(__VA_ARGS__) = dlsym(RTLD_NEXT, #name)
#define OPEN(name) int name(const char *path, int flags, ...) { \
    va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
    if (refused(path, "o")) return -1; \
    REAL(int, name, const char *, int, ...); return real(path, flags, mode); }
OPEN(open)
OPEN(open64)
#define OPENAT(name) int name(int folder, const char *path, int flags, ...) { \
    va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
    if (refused(path, "o")) return -1; \
    REAL(int, name, int, const char *, int, ...); return real(folder, path, flags, mode); }
OPENAT(openat)
OPENAT(openat64)
#define FOPEN(name) FILE *name(const char *path, const char *mode) { \
    if (refused(path, "o")) return NULL; REAL(FILE *, name, const char *, const char *); return real(path, mode); }
FOPEN(fopen)
FOPEN(fopen64)
#define PATHS(name, letter) int name(const char *path) { \
    if (refused(path, letter)) return -1; REAL(int, name, const char *); return real(path); }
PATHS(unlink, "u")
PATHS(rmdir, "d")
int mkdir(const char *path, mode_t mode) {
    if (refused(path, "m")) return -1; REAL(int, mkdir, const char *, mode_t); return real(path, mode); }
#define TWO(name, letter) int name(const char *one, const char *other) { \
    if (refused(other, letter)) return -1; REAL(int, name, const char *, const char *); return real(one, other); }
TWO(rename, "r")
TWO(link, "l")
#define STAT(name, kind) int name(const char *path, struct kind *found) { \
    if (refused(path, "s")) return -1; REAL(int, name, const char *, struct kind *); return real(path, found); }
STAT(stat, stat)
STAT(stat64, stat64)
STAT(lstat, stat)
STAT(lstat64, stat64)
DIR *opendir(const char *path) {
    if (refused(path, "p")) return NULL; REAL(DIR *, opendir, const char *); return real(path); }
#define RESIZE(name) int name(int fd, off_t size) { \
    if (refused_fd(fd, "t")) return -1; REAL(int, name, int, off_t); return real(fd, size); }
RESIZE(ftruncate)
RESIZE(ftruncate64)
#define MAP(name) void *name(void *at, size_t size, int may, int how, int fd, off_t from) { \
    if (fd >= 0 && refused_fd(fd, "a")) return MAP_FAILED; \
    REAL(void *, name, void *, size_t, int, int, int, off_t); return real(at, size, may, how, fd, from); }
MAP(mmap)
MAP(mmap64)
int flock(int fd, int how) { if (refused_fd(fd, "k")) return -1; REAL(int, flock, int, int); return real(fd, how); }
int fsync(int fd) { if (refused_fd(fd, "f")) return -1; REAL(int, fsync, int); return real(fd); }
ssize_t write(int fd, const void *from, size_t size) {
    if (refused_fd(fd, "w")) return -1; REAL(ssize_t, write, int, const void *, size_t); return real(fd, from, size); }
ssize_t writev(int fd, const struct iovec *from, int count) {
    if (refused_fd(fd, "w")) return -1; REAL(ssize_t, writev, int, const struct iovec *, int); return real(fd, from, count); }
#define AT(name) ssize_t name(int fd, const void *from, size_t size, off_t at) { \
    if (refused_fd(fd, "w")) return -1; REAL(ssize_t, name, int, const void *, size_t, off_t); return real(fd, from, size, at); }
AT(pwrite)
AT(pwrite64)
ssize_t read(int fd, void *to, size_t size) {
    if (refused_fd(fd, "g")) return -1; REAL(ssize_t, read, int, void *, size_t); return real(fd, to, size); }

#define READ_AT(name) ssize_t name(int fd, void *to, size_t size, off_t at) { \
    if (refused_fd(fd, "g")) return -1; REAL(ssize_t, name, int, void *, size_t, off_t); return real(fd, to, size, at); }
READ_AT(pread)
READ_AT(pread64)
