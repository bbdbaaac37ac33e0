/* An iSCSI load generator that costs little: closed loop at a depth, or open loop at a rate.

   load HOST PORT IQN LUN SESSIONS DEPTH BLOCK_BYTES DISK_BYTES WRITE_PERCENT RANDOM DIGESTS RATE SECONDS
   load HOST PORT echo 0 SESSIONS DEPTH BLOCK_BYTES DISK_BYTES 0 1 0 0 SECONDS

   Prints one line: I/Os, seconds, the latency in µs that 50, 99 and 99.9 % of them did not pass (at a rate,
   from when they were due), and how many were outstanding at most, all sessions together.  "echo" is the server of echo.c: 48 bytes there, 48 and a block back.
   Each session is of an initiator of its own.  With DIGESTS both digests are asked for, made and checked.  It knows as much of RFC 7143 as that takes. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef __SSE4_2__
#include <nmmintrin.h>
#endif

enum { BHS = 48, DEPTH_MAX = 1024, IN_BYTES = 4 << 20, SAMPLES_MAX = 8 << 20 };

struct task { double began; uint32_t length; int write; int busy; };

struct session {
  int fd, outstanding, reads_left;
  uint32_t cmd_sn, max_cmd_sn, exp_stat_sn;
  uint8_t *in, *out;
  size_t have, out_at, out_end, out_size;
  struct task tasks[DEPTH_MAX];
};

static const char *iqn;
static int echo, lun, depth, digests, write_percent, at_random;
static uint32_t block, target_segment = 8192, first_burst = 65536;
static uint64_t disk, position, ios, seed = 88172645463325252ull;
static uint32_t *samples;
static size_t sample_count;
static uint8_t *payload;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *what) {
  fprintf(stderr, "load: %s\n", what);
  exit(1);
}

static uint64_t random_number(void) {
  seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
  return seed;
}

static uint32_t crc32c(const uint8_t *data, size_t size) {
#ifdef __SSE4_2__
  uint64_t crc = 0xFFFFFFFF;
  for (; size >= 8; data += 8, size -= 8) {
    uint64_t word;
    memcpy(&word, data, 8);
    crc = _mm_crc32_u64(crc, word);
  }
  for (; size; data++, size--) crc = _mm_crc32_u8((uint32_t)crc, *data);
  return ~(uint32_t)crc;
#else
  uint32_t crc = 0xFFFFFFFF;
  for (; size; data++, size--) {
    crc ^= *data;
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (0x82F63B78 & -(crc & 1));
  }
  return ~crc;
#endif
}

static void put32(uint8_t *at, uint32_t value) { value = htonl(value), memcpy(at, &value, 4); }
static uint32_t get32(const uint8_t *at) { uint32_t value; memcpy(&value, at, 4); return ntohl(value); }

static void append(struct session *s, const void *data, size_t size) {
  if (s->out_end + size > s->out_size) {
    memmove(s->out, s->out + s->out_at, s->out_end - s->out_at);
    s->out_end -= s->out_at, s->out_at = 0;
    while (s->out_end + size > s->out_size) s->out_size *= 2;
    if (!(s->out = realloc(s->out, s->out_size))) die("no memory");
  }
  memcpy(s->out + s->out_end, data, size);
  s->out_end += size;
}

static void append_pdu(struct session *s, uint8_t *bhs, const uint8_t *data, uint32_t size, int digested) {
  uint32_t crc, padding = -size & 3;
  bhs[5] = size >> 16, bhs[6] = size >> 8, bhs[7] = size;
  append(s, bhs, BHS);
  if (digested) crc = crc32c(bhs, BHS), append(s, &crc, 4);
  if (!size) return;
  append(s, data, size);
  append(s, "\0\0\0", padding);
  if (digested) {
    if (padding) die("payload is not a multiple of four bytes");
    crc = crc32c(data, size), append(s, &crc, 4);
  }
}

static void flush(struct session *s) {
  while (s->out_at < s->out_end) {
    ssize_t sent = send(s->fd, s->out + s->out_at, s->out_end - s->out_at, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (sent <= 0) die("the connection has ended");
    s->out_at += sent;
  }
  s->out_at = s->out_end = 0;
}

static void receive_exactly(int fd, uint8_t *to, size_t size) {
  while (size) {
    ssize_t got = recv(fd, to, size, 0);
    if (got <= 0) die("the target has closed the connection");
    to += got, size -= got;
  }
}

static uint32_t number_of(const uint8_t *keys, size_t size, const char *key, uint32_t otherwise) {
  size_t length = strlen(key);
  for (size_t at = 0; at < size; at += strnlen((const char *)keys + at, size - at) + 1)
    if (!strncmp((const char *)keys + at, key, length)) return atoi((const char *)keys + at + length);
  return otherwise;
}

static void log_in(struct session *s, int number) {
  uint8_t bhs[BHS], data[8192];
  char text[2048];
  const char *digest = digests ? "CRC32C" : "None";
  int size = snprintf(text, sizeof text,
    "InitiatorName=iqn.2026-11.io.lunmesh:load%d%cTargetName=%s%cSessionType=Normal%cHeaderDigest=%s%c"
    "DataDigest=%s%cMaxRecvDataSegmentLength=262144%cMaxBurstLength=262144%cFirstBurstLength=65536%c"
    "InitialR2T=No%cImmediateData=Yes%cMaxOutstandingR2T=1%cErrorRecoveryLevel=0%cMaxConnections=1%c"
    "DefaultTime2Wait=2%cDefaultTime2Retain=0%cDataPDUInOrder=Yes%cDataSequenceInOrder=Yes%c",
    number, 0, iqn, 0, 0, digest, 0, digest, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  s->cmd_sn = 1;
  for (int turn = 0; turn < 8; turn++) {
    memset(bhs, 0, BHS);
    bhs[0] = 0x43, bhs[1] = 0x87;
    bhs[8] = 0x80, bhs[9] = number >> 16, bhs[10] = number >> 8, bhs[11] = number, bhs[12] = getpid() >> 8,
    bhs[13] = getpid();
    put32(bhs + 24, s->cmd_sn), put32(bhs + 28, s->exp_stat_sn);
    append_pdu(s, bhs, (uint8_t *)text, turn ? 0 : size, 0);
    flush(s);
    receive_exactly(s->fd, bhs, BHS);
    uint32_t length = bhs[5] << 16 | bhs[6] << 8 | bhs[7];
    if (bhs[0] != 0x23 || length > sizeof data) die("no answer to a login");
    receive_exactly(s->fd, data, (length + 3) & ~3u);
    if (bhs[36]) die("the login is refused");
    s->exp_stat_sn = get32(bhs + 24) + 1, s->max_cmd_sn = get32(bhs + 32);
    target_segment = number_of(data, length, "MaxRecvDataSegmentLength=", target_segment);
    first_burst = number_of(data, length, "FirstBurstLength=", first_burst);
    if ((bhs[1] & 0x83) == 0x83) return;
  }
  die("the login does not end");
}

static void command(struct session *s, int tag, int opcode, int is_write, uint32_t length, uint64_t lba) {
  uint8_t bhs[BHS] = {0x01, 0x81};
  struct task *task = &s->tasks[tag];
  uint32_t blocks = length / 512, unasked = 0;
  bhs[9] = lun;
  put32(bhs + 16, tag), put32(bhs + 20, length), put32(bhs + 24, s->cmd_sn++), put32(bhs + 28, s->exp_stat_sn);
  bhs[32] = opcode;
  if (length) {
    bhs[1] |= is_write ? 0x20 : 0x40;
    put32(bhs + 34, lba), bhs[39] = blocks >> 8, bhs[40] = blocks;
    if (is_write) unasked = length < first_burst ? length : first_burst;
    if (unasked > target_segment) unasked = target_segment;
  }
  task->length = length, task->write = is_write, task->busy = 1;
  append_pdu(s, bhs, payload, unasked, digests);
}

static void begin(struct session *s, double due) {
  int tag = 0;
  uint64_t blocks = disk / block, number = at_random ? random_number() % blocks : position++ % blocks;
  if (echo) {
    uint8_t request[BHS] = {0};
    memcpy(request, &number, 8);
    while (s->tasks[tag].busy) tag++;
    request[8] = tag, request[9] = tag >> 8;
    s->tasks[tag].busy = 1;
    append(s, request, BHS);
  } else {
    int is_write = (int)(random_number() % 100) < write_percent;
    while (s->tasks[tag].busy) tag++;
    command(s, tag, is_write ? 0x2A : 0x28, is_write, block, number * (block / 512));
  }
  s->tasks[tag].began = due;
  s->outstanding++;
}

static void end(struct session *s, uint32_t tag) {
  if (tag >= DEPTH_MAX || !s->tasks[tag].busy) die("an answer to nothing");
  if (sample_count < SAMPLES_MAX) samples[sample_count++] = (now() - s->tasks[tag].began) * 1e6;
  s->tasks[tag].busy = 0;
  s->outstanding--, ios++;
}

static void data_out(struct session *s, const uint8_t *r2t) {
  uint32_t offset = get32(r2t + 40), left = get32(r2t + 44), data_sn = 0;
  while (left) {
    uint8_t bhs[BHS] = {0x05};
    uint32_t size = left < target_segment ? left : target_segment;
    bhs[1] = size == left ? 0x80 : 0;
    memcpy(bhs + 16, r2t + 16, 8);
    put32(bhs + 28, s->exp_stat_sn), put32(bhs + 36, data_sn++), put32(bhs + 40, offset);
    append_pdu(s, bhs, payload, size, digests);
    offset += size, left -= size;
  }
}

static void handle(struct session *s, const uint8_t *bhs) {
  int opcode = bhs[0] & 0x3F;
  s->max_cmd_sn = get32(bhs + 32);
  if (opcode == 0x31) {
    data_out(s, bhs);
  } else if (opcode == 0x20) {
    uint8_t answer[BHS] = {0x40, 0x80};
    if (get32(bhs + 20) == 0xFFFFFFFF) return;
    memcpy(answer + 8, bhs + 8, 8), put32(answer + 16, 0xFFFFFFFF), memcpy(answer + 20, bhs + 20, 4);
    put32(answer + 24, s->cmd_sn), put32(answer + 28, s->exp_stat_sn);
    append_pdu(s, answer, 0, 0, digests);
  } else if (opcode == 0x21 || (opcode == 0x25 && bhs[1] & 1)) {
    s->exp_stat_sn = get32(bhs + 24) + 1;
    if (bhs[3] && s->tasks[get32(bhs + 16) % DEPTH_MAX].length) die("a command has failed");
    end(s, get32(bhs + 16));
  } else if (opcode != 0x25) {
    die("a PDU that was not asked for");
  }
}

static int parse(struct session *s) {
  size_t at = 0;
  while (s->have - at >= BHS) {
    const uint8_t *bhs = s->in + at;
    size_t size = BHS, length;
    if (echo) {
      if (s->have - at < BHS + block) break;
      end(s, bhs[8] | bhs[9] << 8);
      at += BHS + block;
      continue;
    }
    length = bhs[5] << 16 | bhs[6] << 8 | bhs[7];
    size += bhs[4] * 4 + (digests ? 4 : 0);
    size_t data_at = size;
    size += ((length + 3) & ~3ul) + (digests && length ? 4 : 0);
    if (s->have - at < size) break;
    if (digests) {
      uint32_t crc = crc32c(bhs, BHS);
      if (memcmp(&crc, bhs + BHS, 4)) die("a wrong header digest");
      crc = crc32c(bhs + data_at, (length + 3) & ~3ul);
      if (length && memcmp(&crc, bhs + size - 4, 4)) die("a wrong data digest");
    }
    handle(s, bhs);
    at += size;
  }
  memmove(s->in, s->in + at, s->have - at);
  s->have -= at;
  return at > 0;
}

static void read_some(struct session *s) {
  ssize_t got = recv(s->fd, s->in + s->have, IN_BYTES - s->have, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) die("the target has closed the connection");
  s->have += got;
  parse(s);
}

static void wait_until_ready(struct session *s) {
  /* Unit attentions are told to the first commands. */
  for (int turn = 0; turn < 8; turn++) {
    command(s, 0, 0, 0, 0, 0);
    s->outstanding++;
    flush(s);
    while (s->outstanding) read_some(s);
  }
  ios = sample_count = 0;
}

static int may_send(const struct session *s) {
  return s->outstanding < depth && (echo || (int32_t)(s->max_cmd_sn - s->cmd_sn) >= 0);
}

static int by_size(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

static uint32_t percentile(double share) {
  return sample_count ? samples[(size_t)((sample_count - 1) * share)] : 0;
}

int main(int count, char **words) {
  if (count != 14) die("13 words: see load.c");
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(words[2]))};
  if (inet_pton(AF_INET, words[1], &address.sin_addr) != 1) die("an IPv4 address is wanted");
  iqn = words[3], echo = !strcmp(iqn, "echo"), lun = atoi(words[4]);
  int sessions = atoi(words[5]);
  depth = atoi(words[6]), block = atoi(words[7]), disk = strtoull(words[8], 0, 10);
  write_percent = atoi(words[9]), at_random = atoi(words[10]), digests = atoi(words[11]);
  double rate = atof(words[12]), seconds = atof(words[13]);
  if (depth < 1 || depth > DEPTH_MAX || sessions < 1 || disk / block == 0) die("out of range");
  samples = malloc(SAMPLES_MAX * sizeof *samples), payload = malloc(262144);
  for (int i = 0; i < 262144; i++) payload[i] = random_number();
  struct session *all = calloc(sessions, sizeof *all);
  struct pollfd *polled = calloc(sessions, sizeof *polled);
  for (int i = 0; i < sessions; i++) {
    struct session *s = &all[i];
    int one = 1;
    s->in = malloc(IN_BYTES), s->out = malloc(s->out_size = 1 << 16);
    s->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(s->fd, (struct sockaddr *)&address, sizeof address)) die("cannot connect");
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (!echo) log_in(s, i), wait_until_ready(s);
    fcntl(s->fd, F_SETFL, O_NONBLOCK);
    polled[i].fd = s->fd;
  }
  double began = now(), over = began + seconds, due = began;
  int turn = 0, most = 0;
  for (;;) {
    double at = now();
    if (at >= over) break;
    if (rate > 0) {
      while (due <= at) {
        int tried = 0;
        while (tried < sessions && !may_send(&all[turn])) turn = (turn + 1) % sessions, tried++;
        if (tried == sessions) break; /* it waits, and its latency counts from when it was due */
        begin(&all[turn], due);
        turn = (turn + 1) % sessions;
        due += 1 / rate;
      }
    } else {
      for (int i = 0; i < sessions; i++)
        while (may_send(&all[i])) begin(&all[i], at);
    }
    int outstanding = 0;
    for (int i = 0; i < sessions; i++) {
      outstanding += all[i].outstanding;
      flush(&all[i]);
      polled[i].events = POLLIN | (all[i].out_end ? POLLOUT : 0);
    }
    if (outstanding > most) most = outstanding;
    double wait = rate > 0 && due < over ? due - now() : over - now();
    if (wait < 0) wait = 0;
    struct timespec timeout = {(time_t)wait, (long)((wait - (time_t)wait) * 1e9)};
    if (ppoll(polled, sessions, &timeout, 0) < 0 && errno != EINTR) die("poll");
    for (int i = 0; i < sessions; i++)
      if (polled[i].revents & (POLLIN | POLLHUP | POLLERR)) read_some(&all[i]);
  }
  double took = now() - began;
  qsort(samples, sample_count, sizeof *samples, by_size);
  printf("%llu %.6f %u %u %u %d\n", (unsigned long long)ios, took, percentile(.5), percentile(.99),
         percentile(.999), most);
  return 0;
}
