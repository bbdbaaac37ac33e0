/* What a read costs at least, in C: 48 bytes come, 48 bytes and a block of a file go; one thread, one
   connection at a time.  All that has arrived is answered by one sendmsg, as lunmesh does it.

   echo FILE BLOCK_BYTES            prints its port, ends with its standard input */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { REQUEST = 48, BATCH = 256 };

static void serve(int fd, int file, size_t block) {
  static uint8_t in[REQUEST * BATCH];
  uint8_t *blocks = malloc(block * BATCH);
  struct iovec parts[2 * BATCH];
  size_t have = 0;
  for (;;) {
    struct pollfd both[2] = {{fd, POLLIN, 0}, {0, POLLIN, 0}};
    poll(both, 2, -1);
    if (both[1].revents) exit(0);
    ssize_t got = recv(fd, in + have, sizeof in - have, 0);
    if (got <= 0) break;
    have += got;
    size_t count = have / REQUEST, left = 0;
    for (size_t i = 0; i < count; i++) {
      uint64_t number;
      memcpy(&number, in + i * REQUEST, 8);
      if (pread(file, blocks + i * block, block, number * block) != (ssize_t)block) exit(1);
      parts[2 * i] = (struct iovec){in + i * REQUEST, REQUEST};
      parts[2 * i + 1] = (struct iovec){blocks + i * block, block};
      left += REQUEST + block;
    }
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2 * count};
    while (left) {
      ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
      if (sent <= 0) goto over;
      left -= sent;
      while (message.msg_iovlen && (size_t)sent >= message.msg_iov->iov_len)
        sent -= message.msg_iov->iov_len, message.msg_iov++, message.msg_iovlen--;
      if (sent) message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + sent, message.msg_iov->iov_len -= sent;
    }
    memmove(in, in + count * REQUEST, have - count * REQUEST);
    have -= count * REQUEST;
  }
over:
  free(blocks);
  close(fd);
}

int main(int count, char **words) {
  if (count != 3) return 2;
  int file = open(words[1], O_RDONLY), listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  if (file < 0 || bind(listener, (struct sockaddr *)&address, size) || listen(listener, 8)) return 1;
  getsockname(listener, (struct sockaddr *)&address, &size);
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  for (;;) {
    struct pollfd both[2] = {{listener, POLLIN, 0}, {0, POLLIN, 0}};
    poll(both, 2, -1);
    if (both[1].revents) return 0;
    int fd = accept(listener, 0, 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    serve(fd, file, atoi(words[2]));
  }
}
