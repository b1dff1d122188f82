package storage

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unackedFor is how long what was sent may stay unacknowledged before a
// connection counts as dead. The kernel would wait a quarter of an hour.
const unackedFor = 30 * time.Second

func giveUpEarly(network, _ string, c syscall.RawConn) error {
	if network == "unix" {
		return nil
	}
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedFor.Milliseconds()))
	})
	return errors.Join(err, failed)
}
