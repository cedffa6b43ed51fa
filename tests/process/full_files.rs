//! A site whose files may not grow any more (`ulimit -f`) refuses what it cannot write, and lives on.
//! needs: home, signup

#[cfg(all(target_os = "linux", feature = "sqlite"))]
#[test]
fn a_database_file_that_may_not_grow_refuses_writes_until_it_may() {
    use crate::common::{Server, wait_until};
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    // With a file of its own, also where the other tests have a server.
    let mut server = Server::with_only(&[("PORT", "0"), ("PASSWORD_ITERATIONS", "1")]);
    let id = Pid::from_raw(server.id() as i32);
    let allow = |current| prlimit(id, Resource::Fsize, Rlimit { current, maximum: None }).unwrap();
    server.browser().sign_up("ada").assert_redirect("/");
    allow(Some(1024));
    for name in ["bob", "eve"] {
        server.browser().sign_up(name).assert_status(503);
    }
    server.browser().get("/").assert_status(200);
    assert!(!server.has_ended(), "{}", *server);
    allow(None);
    assert!(wait_until(10, || server.browser().sign_up("bob").status == 303), "{}", *server);
}
