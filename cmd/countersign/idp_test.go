package main

import (
	"crypto/tls"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"

	"github.com/countersign/countersign/test/idp"
)

// provider is a program: an OpenID provider for people, under an authority of
// its own whose certificate it writes to the file it is told.
func provider() {
	ca, certificate := authority()
	if err := os.WriteFile(os.Args[1], ca, 0o600); err != nil {
		log.Fatal(err)
	}
	p, err := idp.New(func(s *httptest.Server) { s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}} })
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready", p.URL)
	select {}
}

// says is a program: it tells the provider who signs in.
func says() {
	form := url.Values{}
	for _, kv := range os.Args[2:] {
		name, value, _ := strings.Cut(kv, "=")
		form.Set(name, value)
	}
	resp, err := http.PostForm(os.Args[1]+"/control", form)
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
}

// browser is a program: it goes where it is sent.
func browser() {
	resp, err := http.Get(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
}
