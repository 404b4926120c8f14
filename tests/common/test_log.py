import subprocess
import sys

import tqdm

from ccnet_jax.common.log import say, speaking
from tests.helpers import ROOT


def test_lines_have_a_level_and_are_written_at_once(capsys):
    say("step 5: val mIoU 40.00 %")
    say("warning: a.png is corrupt")
    assert capsys.readouterr() == ("step 5: val mIoU 40.00 %\n", "warning: a.png is corrupt\n")


def test_lines_stand_above_a_bar(capsys):
    with tqdm.tqdm(total=2, file=sys.stdout) as bar:
        say("a line")
        bar.update()
    assert "a line\n" in capsys.readouterr().out.replace("\r", "\n")


def test_one_host_speaks_for_all_and_each_for_itself(capsys):
    with speaking(False):
        say("for all")
        with speaking(True):
            say("still for all")
        say("warning: of this host", every_host=True)
    say("again for all")
    assert capsys.readouterr() == ("again for all\n", "warning: of this host\n")


def test_a_users_handler_takes_the_place_of_ours_and_hears_levels():
    code = """if True:
        import logging, sys
        from ccnet_jax.common.log import say
        logging.getLogger("ccnet_jax").addHandler(logging.StreamHandler(sys.stdout))
        logging.getLogger("ccnet_jax").setLevel(logging.WARNING)
        say("not heard")
        say("warning: heard")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "warning: heard\n"
