//! A block device as a target: what clients write, zero and trim arrives there.

use crate::common::images::{MIB, allocated, assert_same_bytes, file, mixed};
use crate::common::loops::Loop;
use crate::common::{Sandbox, tool};
use crate::servers::{have, ours, python_with_libnbd};

#[test]
fn n16_a_device_is_written_zeroed_and_trimmed_and_says_what_would_not_be_fast() {
    let Some(python) = python_with_libnbd() else { return };
    if !have(&["nbdcopy"]) {
        return;
    }
    let sand = Sandbox::with_repo();
    let mut expected = mixed(8, 16 * MIB);
    expected[..9 * MIB as usize].fill(5);
    let image = file(&sand, "image", &expected);
    let backing = file(&sand, "backing", &vec![0xaa; 16 * MIB as usize]);
    let Some(device) = Loop::over(&backing, &[]) else { return };
    let server = ours(&sand, &["--target", &format!("disk={}", device.0)]);
    let _ = tool("nbdcopy", &["--flush", &image, &server.uri("disk", "")]);
    let script = r#"
import errno, nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
assert h.get_size() == 16 << 20, h.get_size()
M = 1 << 20
h.zero(M, 1 * M)
h.zero(M, 3 * M, nbd.CMD_FLAG_NO_HOLE)
h.zero(1000, 5 * M + 100)                 # lies across no whole sector of its ends
h.trim(M, 7 * M, nbd.CMD_FLAG_FUA)
h.pwrite(b"x" * 700, 6 * M + 300, nbd.CMD_FLAG_FUA)
try:
    h.zero(M, 8 * M, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
    raise SystemExit("zeroes that may have to be written are not fast")
except nbd.Error as why:
    assert why.errnum == errno.ENOTSUP, why
h.flush()
assert h.pread(M, 1 * M) == bytes(M)
assert h.pread(M, 3 * M) == bytes(M)
assert h.pread(1002, 5 * M + 99) == b"\x05" + bytes(1000) + b"\x05"
assert h.pread(702, 6 * M + 299) == b"\x05" + b"x" * 700 + b"\x05"
print("trimmed" if h.pread(M, 7 * M) == bytes(M) else "kept")
assert h.pread(M, 8 * M) == b"\x05" * M   # what was refused as not fast is untouched
h.shutdown()
"#;
    let said = tool(python, &["-c", script, &server.uri("disk", "")]);
    let _ = server.stop().expect_code(0);
    let zero = |expected: &mut [u8], at: u64, len: u64| expected[at as usize..(at + len) as usize].fill(0);
    zero(&mut expected, MIB, MIB);
    zero(&mut expected, 3 * MIB, MIB);
    zero(&mut expected, 5 * MIB + 100, 1000);
    expected[6 * MIB as usize + 300..][..700].fill(b'x');
    if said.contains("trimmed") {
        zero(&mut expected, 7 * MIB, MIB);
        assert!(allocated(&backing) < 16 * MIB, "what was trimmed still takes space");
    }
    assert_same_bytes(&std::fs::read(&backing).expect("read"), &expected, "what the device holds");
}
