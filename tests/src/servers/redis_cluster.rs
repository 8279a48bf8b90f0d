//! A Redis Cluster of a test: three primaries that share the slots, and what
//! happens to clusters: a slot moves, a replica takes over.

use std::time::Duration;

use tidepool::cache::redis::{RedisCache, RedisCacheSettings};
use tidepool::config::Secret;

use super::Redis;
use crate::within;

/// The slots of each primary.
const SHARES: [(&str, &str); 3] = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];

/// Between two looks at what the nodes say.
const LOOK: Duration = Duration::from_millis(20);

/// A running Redis Cluster.
#[derive(Debug)]
pub struct RedisCluster {
    /// Its nodes: the primaries, then replicas in the order in which they came.
    pub nodes: Vec<Redis>,
    tls: Option<(String, String)>,
}

impl RedisCluster {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn start() -> RedisCluster {
        RedisCluster::start_with(None).await
    }

    /// Starts one that speaks TLS, with a certificate and its key (PEM).
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn start_tls(certificate: &str, key: &str) -> RedisCluster {
        RedisCluster::start_with(Some((certificate.to_owned(), key.to_owned()))).await
    }

    async fn start_with(tls: Option<(String, String)>) -> RedisCluster {
        let nodes = Vec::new();
        let mut cluster = RedisCluster { nodes, tls };
        for (epoch, (first, last)) in ["1", "2", "3"].into_iter().zip(SHARES) {
            let node = cluster.start_node().await;
            // Nodes of one epoch would have to agree on others first.
            let () = node.command(&["CLUSTER", "SET-CONFIG-EPOCH", epoch]).await;
            let range = ["CLUSTER", "ADDSLOTSRANGE", first, last];
            let () = node.command(&range).await;
            cluster.join(node).await;
        }
        within("a cluster", cluster.settled()).await;
        cluster
    }

    /// Adds a replica of a node, and waits until it has everything.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn add_replica(&mut self, of: usize) {
        let node = self.start_node().await;
        let primary: String = self.nodes[of].command(&["CLUSTER", "MYID"]).await;
        self.join(node).await;
        within("a node of the cluster", self.settled()).await;
        let replica = &self.nodes[self.nodes.len() - 1];
        let () = replica.command(&["CLUSTER", "REPLICATE", &primary]).await;
        let in_step = async {
            let synced = |info: String| info.contains("master_link_status:up");
            while !synced(replica.command(&["INFO", "replication"]).await) {
                tokio::time::sleep(LOOK).await;
            }
        };
        within("a replica", in_step).await;
    }

    /// The URL, with these nodes as its seeds.
    ///
    /// # Panics
    ///
    /// There are no such nodes.
    pub fn url(&self, seeds: &[usize]) -> String {
        let port = |seed: &usize| self.port(&self.nodes[*seed]);
        let seeds = seeds.iter().map(|seed| format!("127.0.0.1:{}", port(seed)));
        let seeds = seeds.collect::<Vec<_>>().join(",");
        match self.tls {
            Some(_) => format!("rediss-cluster://{seeds}"),
            None => format!("redis-cluster://{seeds}"),
        }
    }

    /// The settings of a cache there.
    pub fn cache_settings(&self) -> RedisCacheSettings {
        let first = &self.nodes[0];
        let ca = self.tls.as_ref().map(|_| first.folder().join("tls.crt"));
        RedisCacheSettings {
            url: Secret::new(self.url(&[0, 1, 2])),
            ca_file: ca,
            ..first.cache_settings()
        }
    }

    /// A cache there, connected.
    ///
    /// # Panics
    ///
    /// It does not connect.
    pub async fn cache(&self) -> RedisCache {
        self.nodes[0].cache_with(self.cache_settings()).await
    }

    /// The node that has the slot of a key.
    ///
    /// # Panics
    ///
    /// None has it.
    pub async fn owner(&self, key: &str) -> usize {
        for (index, node) in self.nodes.iter().enumerate() {
            if node.try_command::<i64>(&["EXISTS", key]).await.is_ok() {
                return index;
            }
        }
        panic!("no node has the slot of {key}");
    }

    /// Begins to move the slot of a key; returns the slot.
    ///
    /// # Panics
    ///
    /// A node refuses.
    pub async fn begin_move(&self, key: &str, from: usize, to: usize) -> String {
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        let slot: i64 = from.command(&["CLUSTER", "KEYSLOT", key]).await;
        let slot = slot.to_string();
        for (node, way, other) in [(to, "IMPORTING", from), (from, "MIGRATING", to)] {
            let other: String = other.command(&["CLUSTER", "MYID"]).await;
            let set = ["CLUSTER", "SETSLOT", &slot, way, &other];
            let () = node.command(&set).await;
        }
        slot
    }

    /// Moves what is left in a slot, and then the slot.
    ///
    /// # Panics
    ///
    /// A node refuses.
    pub async fn end_move(&self, slot: &str, from: usize, to: usize) {
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        let port = to.port().to_string();
        loop {
            let list = ["CLUSTER", "GETKEYSINSLOT", slot, "100"];
            let keys: Vec<String> = from.command(&list).await;
            if keys.is_empty() {
                break;
            }
            let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "10000", "KEYS"];
            migrate.extend(keys.iter().map(String::as_str));
            let _: redis::Value = from.command(&migrate).await;
        }
        let owner: String = to.command(&["CLUSTER", "MYID"]).await;
        // The new owner first, or nobody would have it for a moment.
        for node in [to, from] {
            let set = ["CLUSTER", "SETSLOT", slot, "NODE", &owner];
            let () = node.command(&set).await;
        }
    }

    async fn start_node(&self) -> Redis {
        let tls = self.tls.as_ref();
        Redis::start_node(tls.map(|(certificate, key)| (&**certificate, &**key))).await
    }

    async fn join(&mut self, node: Redis) {
        if let Some(first) = self.nodes.first() {
            let port = self.port(first).to_string();
            let bus = first.port_of("--cluster-port").to_string();
            let meet = ["CLUSTER", "MEET", "127.0.0.1", &port, &bus];
            let () = node.command(&meet).await;
        }
        self.nodes.push(node);
    }

    /// Where clients and other nodes are told that a node is.
    fn port(&self, node: &Redis) -> u16 {
        match self.tls {
            Some(_) => node.port_of("--tls-port"),
            None => node.port(),
        }
    }

    /// Waits until all nodes know each other, and who has which slot.
    async fn settled(&self) {
        let known = format!("cluster_known_nodes:{}\r", self.nodes.len());
        for node in &self.nodes {
            let settled = |info: String| {
                info.contains("cluster_state:ok\r")
                    && info.contains("cluster_slots_assigned:16384\r")
                    && info.contains(&known)
            };
            while !settled(node.command(&["CLUSTER", "INFO"]).await) {
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}
