//! Bad luck while serving: the repository goes away and comes back, a backup is deleted, clients vanish.

use crate::common::Sandbox;
use crate::common::images::{MIB, file, mixed};
use crate::servers::ours;
use crate::shell;

/// What could not be found anywhere is not searched for again for half a minute, which is how long this takes.
#[test]
fn a_repository_that_goes_away_costs_errors_and_nothing_when_it_is_back() {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let image = mixed(12, 8 * MIB);
    let _ = sand.backup("vm", &[&file(&sand, "disk.img", &image)]);
    let server = ours(&sand, &[]);
    let (repo, away) = (sand.at("repo/packs"), sand.at("repo/away"));
    let script = format!(
        "import os\nwant = open('{}', 'rb').read()\n\
        os.rename('{repo}', '{away}')\n\
        lost = [no(h.pread, 4096, at) for at in range(6 * 2 ** 20, 8 * 2 ** 20, 2 ** 18)]\nos.rename('{away}', '{repo}')\n\
        back, began = None, time.time()\n\
        while back is None and time.time() - began < 50:\n    try: back = h.pread(2 ** 23, 0)\n    except nbd.Error: time.sleep(0.5)\n\
        print('EIO' in lost, all(x in ('done', 'EIO') for x in lost), back == want)",
        sand.at("disk.img")
    );
    let said = shell::on(&server.uri("vm", ""), &script).expect_code(0);
    assert_eq!(said.text().trim(), "True True True", "{said}");
    let _ = server.stop().expect_code(0);
}

#[test]
fn d7_a_backup_that_is_deleted_while_exported_gives_its_bytes_or_errors_and_nothing_else() {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let image = mixed(13, 8 * MIB);
    let path = file(&sand, "disk.img", &image);
    let _ = sand.backup("vm", &[&path]);
    let server = ours(&sand, &["--memory", "16M"]);
    let script = format!(
        "import shutil, glob\nwant = open('{path}', 'rb').read()\n\
        for d in ('packs', 'backups'):\n    for f in glob.glob('{}/' + d + '/*'): shutil.rmtree(f) if d == 'packs' else __import__('os').remove(f)\n\
        wrong = failed = 0\n\
        for at in range(0, 2 ** 23, 2 ** 16):\n    try:\n        wrong += h.pread(2 ** 16, at) != want[at:at + 2 ** 16]\n    \
        except nbd.Error as e:\n        failed += e.errno == 'EIO'\n        wrong += e.errno != 'EIO'\n\
        print(wrong, failed > 0)",
        sand.at("repo")
    );
    let said = shell::on(&server.uri("vm", ""), &script).expect_code(0);
    assert_eq!(said.text().trim(), "0 True", "{said}");
    // It is no longer listed either, within seconds.
    let began = std::time::Instant::now();
    while shell::on(&server.uri("vm", ""), "print('in')").code() == Some(0) {
        assert!(began.elapsed().as_secs() < 20, "a backup that is gone can still be had");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

#[test]
fn n15_a_server_with_clients_on_a_backup_stops_within_its_time() {
    if !shell::is_there() {
        return;
    }
    let sand = Sandbox::with_repo();
    let _ = sand.backup("vm", &[&file(&sand, "disk.img", &mixed(14, 4 * MIB))]);
    let server = ours(&sand, &[]);
    let idle = crate::common::Running::start(shell::command(
        &server.uri("vm", ""),
        "print(h.pread(1, 0)); sys.stdout.flush(); time.sleep(60)",
    ));
    let began = std::time::Instant::now();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let output = server.stop().expect_code(0);
    assert!(began.elapsed().as_secs() < 20, "{output}");
    drop(idle);
}
