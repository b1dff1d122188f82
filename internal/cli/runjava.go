package cli

import (
	"crypto/sha1" //nolint:gosec // the format of Java's key stores has no other
	"encoding/binary"
	"fmt"
	"net/url"
	"os"
	"strings"
	"unicode/utf16"
)

// javaOptions is the variable that every Java virtual machine reads.
const javaOptions = "JAVA_TOOL_OPTIONS"

// storePassword is what Java's own stores of certificates have. It guards
// nothing: such a store is public.
const storePassword = "changeit"

// java makes Java call through the proxy. It cannot be told a proxy's password,
// so it is given a way to the proxy on this machine that needs none and is open
// to this user alone; without one, Java is left as it is.
func (s *surroundings) java(server *url.URL, token string, trusted []byte) error {
	way, err := startPassage(server, token, os.Getuid())
	if err != nil || way == nil {
		return err
	}
	s.end = append(s.end, way.close)
	file, err := s.write("truststore.jks", javaStore(certificates(trusted)))
	if err != nil {
		return err
	}
	options := []string{
		"-Dhttps.proxyHost=127.0.0.1", fmt.Sprintf("-Dhttps.proxyPort=%d", way.port()), "-Dhttp.nonProxyHosts=" + server.Hostname(),
		"-Djavax.net.ssl.trustStore=" + file, "-Djavax.net.ssl.trustStoreType=JKS", "-Djavax.net.ssl.trustStorePassword=" + storePassword,
	}
	if before := os.Getenv(javaOptions); before != "" {
		options = append([]string{before}, options...) // the last of an option counts
	}
	s.set(javaOptions, strings.Join(options, " "))
	return nil
}

// javaStore returns a store of certificates as Java reads it (JKS, version 2).
func javaStore(certificates [][]byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, 0xfeedfeed)
	b = binary.BigEndian.AppendUint32(b, 2)
	b = binary.BigEndian.AppendUint32(b, uint32(len(certificates)))
	text := func(s string) {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
	}
	for i, c := range certificates {
		b = binary.BigEndian.AppendUint32(b, 2) // a trusted certificate
		text(fmt.Sprintf("c%d", i))
		b = binary.BigEndian.AppendUint64(b, 0) // when it was added
		text("X.509")
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(c))), c...)
	}
	sum := sha1.New() //nolint:gosec // see above
	for _, u := range utf16.Encode([]rune(storePassword)) {
		sum.Write(binary.BigEndian.AppendUint16(nil, u))
	}
	sum.Write([]byte("Mighty Aphrodite"))
	sum.Write(b)
	return append(b, sum.Sum(nil)...)
}
