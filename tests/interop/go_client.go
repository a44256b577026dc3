// Command go_client sends entries with Debian's fluent-logger-golang, which is what Docker's log driver uses. It takes
// its orders as JSON on standard input and answers how many posts succeeded: with an acknowledgement, where asked for.
package main

import (
	"encoding/json"
	"io"
	"log"
	"os"
	"time"

	"github.com/fluent/fluent-logger-golang/fluent"
)

type entry struct {
	Tag    string
	Sec    int64
	Nano   int64
	Record map[string]interface{}
}

type orders struct {
	Network string
	Port    int
	Path    string
	Ack     bool
	Async   bool
	Entries []entry
}

type answer struct {
	Sent   int      `json:"sent"`
	Errors []string `json:"errors"`
}

func main() {
	var given orders
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
		log.Fatal(err)
	}
	told := answer{Errors: []string{}}
	count := func(err error) {
		if err != nil {
			told.Errors = append(told.Errors, err.Error())
		} else {
			told.Sent++
		}
	}
	logger, err := fluent.New(fluent.Config{
		FluentNetwork:       given.Network,
		FluentHost:          "127.0.0.1",
		FluentPort:          given.Port,
		FluentSocketPath:    given.Path,
		SubSecondPrecision:  true,
		RequestAck:          given.Ack,
		RetryWait:           100, // ms
		Async:               given.Async,
		AsyncResultCallback: func(_ []byte, err error) { count(err) },
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, each := range given.Entries {
		err := logger.PostWithTime(each.Tag, time.Unix(each.Sec, each.Nano), each.Record)
		if err != nil || !given.Async { // else it is counted when it was sent
			count(err)
		}
	}
	if err := logger.Close(); err != nil { // waits for what is still queued
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
		log.Fatal(err)
	}
	io.Copy(io.Discard, os.Stdin) // until it is dismissed
}
