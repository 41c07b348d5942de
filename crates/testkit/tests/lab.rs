//! The lab itself: hosts that are apart from the machine and can reach each other.

use ferrokube_testkit::lab::{Lab, available};
use ferrokube_testkit::registry::Registry;
use ferrokube_testkit::wait_for;
use std::time::Duration;

#[tokio::test]
async fn nodes_are_hosts_of_their_own_on_one_lan() -> anyhow::Result<()> {
    if !available("nodes_are_hosts_of_their_own_on_one_lan") {
        return Ok(());
    }
    let lab = Lab::new()?;
    let (one, two) = (lab.node("n1")?, lab.node("n2")?);
    assert_eq!(one.exec(["hostname"]).await?.trim(), "n1");
    assert_eq!(one.exec(["ip", "route", "show", "default"]).await?, "", "no way out");
    assert!(one.exec(["ls", "/sys/class/net"]).await?.contains("eth0"), "/sys shows the node's own network");

    // Folders of the node are its own, and the machine's are untouched.
    one.exec(["bash", "-c", "echo x > /var/lib/probe; echo x > /etc/probe; echo x > /run/probe"]).await?;
    assert!(two.exec(["ls", "/var/lib/probe"]).await.is_err() && two.exec(["ls", "/etc/probe"]).await.is_err());
    assert!(!std::path::Path::new("/etc/probe").exists() && !std::path::Path::new("/var/lib/probe").exists());
    assert!(one.outside("/var/lib/probe").exists());

    // Cgroups look like the machine's, and are not.
    let made =
        "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do [ ! -e $d/cgroup.procs ] || mkdir $d/kubepods || exit 1; done; cat /proc/self/cgroup";
    let seen = one.exec(["bash", "-c", made]).await?;
    assert!(seen.lines().all(|line| line.ends_with(":/")), "{seen}");

    // The LAN connects.
    let registry = Registry::start_in(Some(two.netns()), format!("{}:5000", two.address()).parse()?)?;
    let get = format!("exec 3<>/dev/tcp/{}/5000 && printf 'GET /v2/ HTTP/1.0\\r\\n\\r\\n' >&3 && head -1 <&3", two.address());
    let answer = wait_for("the other node to answer", Duration::from_secs(60), async || one.exec(["bash", "-c", &get]).await).await?;
    assert!(answer.contains("200"), "{answer}");
    drop(registry);

    // A process is found, and the end of the node is the end of it.
    let child = one.spawn(["sleep", "12345"], &lab.dir().join("log"))?;
    let found = async || {
        let sleeping = one.processes().into_iter().find(|process| process.command.first().is_some_and(|name| name == "sleep"));
        sleeping.ok_or_else(|| anyhow::anyhow!("{:?}", one.processes()))
    };
    let sleep = wait_for("the sleep to start", Duration::from_secs(60), found).await?;
    let (name, dir) = (lab.name().to_owned(), lab.dir().to_owned());
    drop((child, one));
    wait_for("the sleep to die", Duration::from_secs(60), async || {
        anyhow::ensure!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(sleep.pid), None).is_err(), "it lives");
        Ok(())
    })
    .await?;
    drop((two, lab));
    assert!(!dir.exists(), "no folder is left");
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        assert!(!hierarchy.path().join(&name).exists(), "no cgroup is left in {:?}", hierarchy.path());
    }
    Ok(())
}

#[test]
fn tools_are_found_or_fetched() {
    for tool in [ferrokube_testkit::tools::kubectl(), ferrokube_testkit::tools::busybox()] {
        match tool {
            Ok(path) => assert!(path.is_file()),
            Err(error) => assert!(format!("{error:#}").contains("missing"), "says what is missing: {error:#}"),
        }
    }
}
