package seal_test

import "net/url"

func mustURL(path string) *url.URL { return &url.URL{Path: path} }
