//! Cinder's own driver reads what we write and writes what we read: the script that anyone can run, run here.

use crate::guest::works;
use std::time::Duration;

#[test]
fn cinder_itself_restores_and_goes_on_with_what_we_export_and_we_read_all_that_it_writes() {
    works("cinder", Duration::from_secs(1800));
}
