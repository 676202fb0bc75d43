//! Hosts in network namespaces of their own, each by a cable of its own to one service, and cables that are pulled.

use crate::common::images::{MIB, file, mixed};
use crate::common::{Running, Sandbox, has_program, is_root, skipped};
use crate::remote::{LONG, answers_with_an_error_and_recovers, done};
use crate::services::{Service, Speech};
use crate::world::{Mounted, lacking, run_tool};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

/// How long a cable is out.
const OUT: Duration = Duration::from_secs(10);
/// Where the service is, in its own namespace: from a range that is for tests of networks.
const SERVICE: &str = "198.18.255.1";

/// The service's namespace and one for each host, until dropped.
pub(crate) struct Network {
    /// What all of its namespaces are called before the dash.
    name: String,
    hosts: usize,
}

impl Network {
    /// So many hosts around a service; why there is none, if it can't be.
    fn new(hosts: usize) -> Result<Network, &'static str> {
        if !is_root() {
            return Err("not root: namespaces are made by root");
        }
        if !has_program("ip") || !has_program("nsenter") {
            return Err("no ip (iproute2) or no nsenter here");
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("afterimage-{}-{}", std::process::id(), COUNT.fetch_add(1, SeqCst));
        let network = Network { name, hosts };
        let service = network.of_the_service();
        if run_tool("ip", &["netns", "add", &service]).code() != Some(0) {
            return Err("no network namespaces here");
        }
        ip(&["-n", &service, "link", "set", "lo", "up"]);
        ip(&["-n", &service, "address", "add", SERVICE, "dev", "lo"]);
        for number in 0..hosts {
            network.connect(number);
        }
        Ok(network)
    }

    /// A host's namespace, its cable to the service, and the way there.
    fn connect(&self, number: usize) {
        let (service, host, cable) = (self.of_the_service(), self.of_host(number), cable(number));
        let [at_service, at_host] = [1, 2].map(|end| format!("198.18.{number}.{end}"));
        ip(&["netns", "add", &host]);
        ip(&[
            "link", "add", &cable, "netns", &service, "type", "veth", "peer", "name", "eth0", "netns", &host,
        ]);
        ip(&["-n", &service, "address", "add", &format!("{at_service}/30"), "dev", &cable]);
        ip(&["-n", &host, "address", "add", &format!("{at_host}/30"), "dev", "eth0"]);
        ip(&["-n", &service, "link", "set", &cable, "up"]);
        ip(&["-n", &host, "link", "set", "eth0", "up"]);
        ip(&["-n", &host, "route", "add", "default", "via", &at_service]);
    }

    fn of_the_service(&self) -> String {
        format!("{}-service", self.name)
    }

    fn of_host(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    /// Pulls a host's cable at the service's end, or puts it back.
    fn pull(&self, number: usize, out: bool) {
        let state = if out { "down" } else { "up" };
        ip(&["-n", &self.of_the_service(), "link", "set", &cable(number), state]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in (0..self.hosts).map(|number| self.of_host(number)).chain([self.of_the_service()]) {
            let mut command = Command::new("ip");
            let _ = command.args(["netns", "delete", &name]).stderr(Stdio::null()).status();
        }
    }
}

fn cable(number: usize) -> String {
    format!("host{number}")
}

fn ip(args: &[&str]) {
    let _ = run_tool("ip", args).expect_code(0);
}

/// Runs a check over Swift in each of its languages, with so many hosts that reach it by cable only.
fn over_cables(hosts: usize, check: impl Fn(&str, &Network, &Speech)) {
    let network = match Network::new(hosts) {
        Ok(network) => network,
        Err(reason) => return skipped(reason),
    };
    if let Some(swift) = Service::swift_in(&network.of_the_service(), SERVICE) {
        check("Swift", &network, &swift.as_swift());
        check("Swift's s3api", &network, &swift.as_s3());
    }
}

#[test]
fn b3_two_hosts_back_up_into_one_bucket_at_once_by_cables_of_which_one_is_pulled_and_a_third_reads_every_byte()
 {
    over_cables(3, |name, network, speech| {
        let here = Sandbox::of_service(&speech.place("cables"), &speech.env);
        let [one, two, third] = [0, 1, 2].map(|number| here.other_host_in(&network.of_host(number)));
        let _ = done(&one, &["init"]);
        let bytes = [11, 12].map(|seed| mixed(seed, 100 * MIB));
        let source = file(&here, "disk", &bytes[0]);
        let undisturbed = Running::start(one.command(&["backup", &source, "--name", "one"]));
        let (from, mut to) = std::io::pipe().expect("make a pipe");
        let mut command = two.command(&["backup", "-", "--name", "two"]);
        let _ = command.stdin(from);
        let mut cut_off = Running::start(command);
        std::thread::scope(|scope| {
            // The second host's source does not end before its cable is back.
            let (before, after) = bytes[1].split_at(60 << 20);
            to.write_all(before).expect("feed the backup");
            network.pull(1, true);
            let rest = scope.spawn(|| to.write_all(after).expect("feed the backup"));
            std::thread::sleep(OUT);
            assert!(!cut_off.has_ended(), "{name}: it ended while its cable was out");
            network.pull(1, false);
            rest.join().expect("the backup takes the rest");
        });
        drop(to);
        let _ = undisturbed.wait(LONG).expect_code(0);
        let _ = cut_off.wait(LONG).expect_code(0);
        for (backup, bytes) in ["one", "two"].into_iter().zip(&bytes) {
            assert!(done(&third, &["cat", backup]).stdout == *bytes, "{name}: {backup}");
        }
        if let Some(reason) = lacking() {
            return skipped(reason);
        }
        let mounted = Mounted::new(&third);
        for (backup, bytes) in ["one", "two"].into_iter().zip(&bytes) {
            let read = std::fs::read(mounted.image(backup)).expect("read through the mount");
            assert!(read == *bytes, "{name}: {backup} through the mount");
        }
        drop(mounted);
        let report = done(&third, &["--json", "check", "--read-data"]).json();
        let found = (&report["backups_ok"], &report["damaged"]);
        assert_eq!(found, (&2.into(), &serde_json::json!([])), "{name}");
    });
}

#[test]
fn b3_a_mount_whose_cable_is_pulled_answers_with_an_error_and_recovers() {
    if let Some(reason) = lacking() {
        return skipped(reason);
    }
    over_cables(1, |name, network, speech| {
        let here = Sandbox::of_service(&speech.place("pulled"), &speech.env);
        let host = here.other_host_in(&network.of_host(0));
        answers_with_an_error_and_recovers(name, &host, |dead| network.pull(0, dead));
    });
}
