// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Handler} from "../src/Handler.sol";
import {Vm} from "../src/Vm.sol";

/// @notice What holds after any sequence of calls. That settled never falls and never passes the deposit, and that a
/// finalized channel never changes, is checked by {Handler} after each call.
contract InvariantsTest {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    Vm private constant vm = Vm(0x7109709ECfa91a80626fF3989D68f67F5b1DD12D);

    Handler private _handler;

    function setUp() public {
        _handler = new Handler();
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        bytes4[] memory selectors = new bytes4[](11);
        selectors[0] = Handler.open.selector;
        selectors[1] = Handler.openAgain.selector;
        selectors[2] = Handler.topUp.selector;
        selectors[3] = Handler.capture.selector;
        selectors[4] = Handler.captureAuthorized.selector;
        selectors[5] = Handler.captureBatch.selector;
        selectors[6] = Handler.requestClose.selector;
        selectors[7] = Handler.withdraw.selector;
        selectors[8] = Handler.wait.selector;
        selectors[9] = Handler.donate.selector;
        selectors[10] = Handler.open.selector;
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(_handler), selectors);
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(_handler);
    }

    /// @notice One campaign for both, since playing it is what takes time.
    function invariant_money_adds_up() external view {
        _handler.checkBalanceCoversLiabilities();
        _handler.checkOnlyPayeeAndPayerArePaid();
    }

    /// @notice A campaign in which hardly anything succeeds would prove little. Forge also plays the few calls of a
    /// failure that it kept; once that is mended, so few may all be refused.
    function afterInvariant() external view {
        if (_handler.played() >= 50) vm.assertTrue(_handler.succeeded() >= 5, "enough calls succeeded");
    }
}
