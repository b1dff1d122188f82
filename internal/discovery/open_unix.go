//go:build unix

package discovery

import (
	"os"
	"syscall"
)

// open opens a file that is no link and does not wait for a pipe's other end.
func open(p string) (*os.File, error) {
	return os.OpenFile(p, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}
