// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IChannelEscrow} from "microwallet/escrow/contract/IChannelEscrow.sol";
import {Fixture} from "../src/Fixture.sol";
import {FeeToken, PlainToken} from "../src/Tokens.sol";

/// @notice Cases of topUp.tree.
contract TopUpTest is Fixture {
    function _topUpData(IChannelEscrow.ChannelDescriptor memory channel, uint128 amount)
        private
        pure
        returns (bytes memory)
    {
        return abi.encodeCall(IChannelEscrow.topUp, (channel, amount));
    }

    function test_top_up_adds_and_emits() public {
        IChannelEscrow.ChannelDescriptor memory channel = _settled(address(usdc), 3);
        vm.expectEmit(address(escrow));
        emit IChannelEscrow.TopUp(_id(channel), payer, payee, 5, DEPOSIT + 5);
        vm.expectEmit(address(escrow), 0);
        emit IChannelEscrow.CloseRequestCancelled(_id(channel), payer, payee);
        _call(payer, _topUpData(channel, 5));
        _checkState(channel, DEPOSIT + 5, 3, 0, false);
        vm.assertEq(usdc.balanceOf(address(escrow)), DEPOSIT + 5 - 3, "the escrow holds it");
    }

    function test_top_up_takes_the_native_coin() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(NATIVE);
        _call(payer, 5, _topUpData(channel, 5), "");
        _checkState(channel, DEPOSIT + 5, 0, 0, false);
    }

    function testFuzz_top_up_cancels_a_close_request(uint16 later) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _call(payer, abi.encodeCall(IChannelEscrow.requestClose, (channel)));
        vm.warp(START + later);
        vm.expectEmit(address(escrow));
        emit IChannelEscrow.CloseRequestCancelled(_id(channel), payer, payee);
        _call(payer, _topUpData(channel, 5));
        _checkState(channel, DEPOSIT + 5, 0, 0, false);
        vm.warp(START + later + 900);
        bytes memory notReady = abi.encodeWithSelector(IChannelEscrow.CloseNotReady.selector, 0);
        _call(payer, abi.encodeCall(IChannelEscrow.withdraw, (channel)), notReady);
    }

    function test_top_up_makes_a_voucher_above_the_deposit_good() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory expected = _error(IChannelEscrow.AmountExceedsDeposit.selector, DEPOSIT + 5, DEPOSIT);
        _call(payee, _settleData(channel, DEPOSIT + 5, DEPOSIT + 5), expected);
        _call(payer, _topUpData(channel, 5));
        _call(payee, _settleData(channel, DEPOSIT + 5, DEPOSIT + 5));
    }

    function test_top_up_is_the_payers_alone() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _fund(address(usdc), payee);
        _call(payee, _topUpData(channel, 1), _error(IChannelEscrow.NotPayer.selector, payee, payer));
    }

    function test_top_up_needs_a_channel() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        _call(payer, _topUpData(channel, 1), _error(IChannelEscrow.ChannelNotFound.selector, _id(channel)));
    }

    function test_top_up_refuses_a_finalized_channel() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _call(payee, _closeData(channel, 1, 1));
        _call(payer, _topUpData(channel, 1), _error(IChannelEscrow.ChannelFinalized.selector, _id(channel)));
    }

    function test_top_up_refuses_nothing() public {
        bytes memory expected = abi.encodeWithSelector(IChannelEscrow.ZeroDeposit.selector);
        _call(payer, _topUpData(_opened(address(usdc)), 0), expected);
    }

    function testFuzz_top_up_bounds_the_sum(uint8 step, bool native, bool atOnce) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(native ? NATIVE : address(usdc));
        uint128 amount = uint128(MAX - DEPOSIT - 1 + step % 3);
        if (atOnce) amount = type(uint128).max - 1 + step % 2;
        uint256 sum = uint256(DEPOSIT) + amount;
        bytes memory expected =
            sum > MAX ? abi.encodeWithSelector(IChannelEscrow.DepositOverflow.selector, sum) : bytes("");
        vm.deal(payer, amount);
        _call(payer, native ? amount : 0, _topUpData(channel, amount), expected);
        _checkState(channel, sum > MAX ? DEPOSIT : sum, 0, 0, false);
    }

    function testFuzz_top_up_needs_the_exact_value(uint8 step) public {
        uint256 value = 4 + step % 3;
        bytes memory expected = value == 5 ? bytes("") : _error(IChannelEscrow.InvalidValue.selector, value, 5);
        _call(payer, value, _topUpData(_opened(NATIVE), 5), expected);
    }

    function test_top_up_refuses_value_with_a_token() public {
        bytes memory expected = _error(IChannelEscrow.InvalidValue.selector, 5, 0);
        _call(payer, 5, _topUpData(_opened(address(usdc)), 5), expected);
    }

    function test_top_up_refuses_what_does_not_arrive_in_full() public {
        PlainToken token = new PlainToken();
        _fund(address(token), payer);
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(token));
        vm.etch(address(token), address(new FeeToken()).code);
        bytes memory expected = abi.encodeWithSelector(IChannelEscrow.DepositNotReceived.selector, address(token), 4, 5);
        _call(payer, _topUpData(channel, 5), expected);
        _checkState(channel, DEPOSIT, 0, 0, false);
    }
}
