// An ADS server on go-control-plane, which is what Envoy Gateway serves limits with.
//
// Its argument is the address to listen on. A line of standard input is a new snapshot: the version,
// then the domains, each of which gets a limit of one a year for the key `one`; a domain `-` makes a
// resource that is refused. It writes a line of JSON for each request that it gets.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"log"
	"net"
	"os"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	limits "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/grpc"
)

const node = "edge"

type request struct {
	Node    string `json:"node"`
	Version string `json:"version"`
	Nonce   string `json:"nonce"`
	Error   string `json:"error"`
}

func limitsOf(domain string) *limits.RateLimitConfig {
	if domain == "-" {
		return &limits.RateLimitConfig{Name: "refused"}
	}
	return &limits.RateLimitConfig{
		Name:   domain,
		Domain: domain,
		Descriptors: []*limits.RateLimitDescriptor{{
			Key:       "one",
			RateLimit: &limits.RateLimitPolicy{Unit: limits.RateLimitUnit_YEAR, RequestsPerUnit: 1},
		}},
	}
}

func main() {
	snapshots := cache.NewSnapshotCache(false, cache.IDHash{}, nil)
	told := json.NewEncoder(os.Stdout)
	callbacks := server.CallbackFuncs{
		StreamRequestFunc: func(_ int64, asked *discovery.DiscoveryRequest) error {
			return told.Encode(request{
				Node:    (*core.Node)(asked.GetNode()).GetId(),
				Version: asked.GetVersionInfo(),
				Nonce:   asked.GetResponseNonce(),
				Error:   asked.GetErrorDetail().GetMessage(),
			})
		},
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	serving := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(
		serving, server.NewServer(context.Background(), snapshots, callbacks))
	go func() { log.Fatal(serving.Serve(listener)) }()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		words := strings.Fields(lines.Text())
		found := []types.Resource{}
		for _, domain := range words[1:] {
			found = append(found, limitsOf(domain))
		}
		snapshot, err := cache.NewSnapshot(
			words[0], map[resource.Type][]types.Resource{resource.RateLimitConfigType: found})
		if err != nil {
			log.Fatal(err)
		}
		if err := snapshots.SetSnapshot(context.Background(), node, snapshot); err != nil {
			log.Fatal(err)
		}
	}
}
