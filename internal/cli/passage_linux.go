package cli

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

const knowsPeers = true

// peer returns the user whose process has the other end of a connection within
// this machine, as the kernel lists it (proc_pid_net(5)). A socket for both
// families is in the second list.
func peer(c net.Conn) (int, error) {
	theirs, ok1 := c.RemoteAddr().(*net.TCPAddr)
	ours, ok2 := c.LocalAddr().(*net.TCPAddr)
	if !ok1 || !ok2 || theirs.IP.To4() == nil || ours.IP.To4() == nil {
		return 0, errors.New("not a connection within this machine")
	}
	for _, list := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		f, err := os.Open(list)
		if err != nil {
			continue
		}
		uid, ok := ownerIn(bufio.NewScanner(f), listed(theirs), listed(ours))
		f.Close()
		if ok {
			return uid, nil
		}
	}
	return 0, errors.New("the connection is not listed")
}

// listed writes an address as the list has it: the four bytes as a number of
// this machine, then the port.
func listed(a *net.TCPAddr) string {
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(a.IP.To4()), a.Port)
}

// ownerIn finds who has the socket from one address to another.
func ownerIn(lines *bufio.Scanner, from, to string) (int, bool) {
	const own, other, owner = 1, 2, 7
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) > owner && strings.HasSuffix(f[own], from) && strings.HasSuffix(f[other], to) {
			uid, err := strconv.Atoi(f[owner])
			return uid, err == nil
		}
	}
	return 0, false
}
